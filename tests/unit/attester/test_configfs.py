# SPDX-License-Identifier: Apache-2.0
"""configfs-tsm: evidence of each provider is accepted by the verifier, and every way to fail has its own words."""

from __future__ import annotations

import errno
from datetime import UTC, datetime

import pytest

from enarx.attester.attested import CCA_TOKEN, CERTIFICATE_TABLE, EVENT_LOG, MAX_EVIDENCE_BYTES, SNP_REPORT, TDX_QUOTE
from enarx.attester.configfs import ConfigfsAttester, TdxRegister, find_configfs
from enarx.errors import DecodeError, PlatformError, UsageError
from enarx.rats import Endorsements, TrustAnchors
from enarx.testing import dcap, snp
from enarx.testing.attesters import FakeSystem, snp_source
from enarx.testing.attesters_configfs import FakeConfigfs, FakeTdxGuest, Provider, cca_provider, snp_provider
from enarx.testing.cca import CcaPlatform
from enarx.testing.dcap import TDX, FakeIntel, Platform
from enarx.testing.snp import FakeAmd
from enarx.testing.tpm import make_log
from tests.unit.attester.judging import OTHER_DATA, REPORT_DATA, assert_judged, assert_marked, judge, record

AMD = FakeAmd()
INTEL, PLATFORM, CCA = FakeIntel(), Platform(), CcaPlatform()
DIGEST = b"\x5a" * 48


def snp_configfs(**options):
    return FakeConfigfs(snp_provider(snp_source(AMD), **options))


def assert_clean(configfs, system):
    """Nothing is left of a request."""
    assert configfs.requests == {}
    assert system.files == {}
    made = [path for call, path in system.calls if call == "mkdir"]
    assert len(set(made)) == len(made)


def assert_fails(configfs, *words, error=PlatformError, hint=None):
    system = configfs.machine()
    attester = ConfigfsAttester(system, configfs.provider.name)
    with pytest.raises(error) as caught:
        attester.attest(REPORT_DATA)
    for word in words:
        assert word in str(caught.value)
    if hint is not None:
        assert hint in caught.value.hint
    assert "\n" not in str(caught.value)
    assert_clean(configfs, system)
    return system


def test_snp_evidence_is_accepted_with_the_hosts_certificates():
    configfs = snp_configfs()
    system = configfs.machine()
    attester = find_configfs(system)
    assert (attester.backend, attester.media_type, attester.register) == ("snp", SNP_REPORT, None)
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, SNP_REPORT)
    assert [record(each).type for each in attested.endorsements] == [CERTIFICATE_TABLE]
    result = assert_judged(attested, at=snp.AT, anchors=AMD.anchors, freshness="snp.report_data")
    assert not result.emulated
    assert_clean(configfs, system)


def test_a_host_without_certificates_gives_a_report_alone():
    configfs = FakeConfigfs(snp_provider(snp_source(AMD, with_table=False)))
    attested = find_configfs(configfs.machine()).attest(REPORT_DATA)
    assert attested.endorsements == ()
    case = AMD.make_case()
    assert_judged(
        attested,
        at=snp.AT,
        anchors=AMD.anchors,
        freshness="snp.report_data",
        endorsements=Endorsements(certificates=case.certificates),
    )


@pytest.mark.parametrize("floor", [0, 1, 2, 3])
def test_an_snp_report_is_for_the_kernels_own_level(floor):
    attested = find_configfs(snp_configfs(floor=floor).machine()).attest(REPORT_DATA)
    assert judge(attested, at=snp.AT, anchors=AMD.anchors).subject.report.vmpl == floor


def test_tdx_evidence_is_accepted():
    log = make_log(("sha384",), [])
    guest = FakeTdxGuest(INTEL, PLATFORM, event_log=log)
    system = guest.machine()
    attester = find_configfs(system)
    assert (attester.backend, attester.media_type, attester.register.name) == ("tdx", TDX_QUOTE, "TDX RTMR3")
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, TDX_QUOTE)
    assert [record(each).type for each in attested.endorsements] == [EVENT_LOG]
    endorsements = Endorsements(intel=(INTEL.make_collateral(TDX, PLATFORM),))
    anchors = TrustAnchors(intel=(INTEL.root.der,))
    assert_judged(attested, at=dcap.AT, anchors=anchors, freshness="tdx.report_data", endorsements=endorsements)
    assert_clean(guest.configfs, system)


def test_cca_evidence_is_accepted():
    configfs = FakeConfigfs(cca_provider(CCA))
    attester = find_configfs(configfs.machine())
    assert (attester.backend, attester.media_type, attester.register) == ("cca", CCA_TOKEN, None)
    attested = attester.attest(REPORT_DATA)
    assert_marked(attested, CCA_TOKEN)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    assert_judged(attested, at=at, anchors=CCA.anchors, freshness="cca.nonce")


def test_quotes_of_an_unknown_layout_pass_through():
    """Intel's newer quotes are CBOR; what they are is for the verifier to say."""
    configfs = FakeConfigfs(Provider("tdx_guest", lambda data, _: (b"\xd2" + data * 300, b"")))
    attested = find_configfs(configfs.machine()).attest(REPORT_DATA)
    assert record(attested.evidence).value == b"\xd2" + REPORT_DATA * 300


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_refuses_report_data_of_another_size(size):
    with pytest.raises(UsageError, match=f"report data: found {size} bytes, want 64"):
        find_configfs(snp_configfs().machine()).attest(bytes(size))


def test_refuses_a_provider_that_it_does_not_know():
    with pytest.raises(PlatformError, match="provider: found 'tdx_host', want one of sev_guest, tdx_guest"):
        find_configfs(FakeConfigfs(Provider("tdx_host", lambda data, _: (data, b""))).machine())


def test_a_kernel_without_a_provider_has_no_tee():
    assert find_configfs(FakeConfigfs(None).machine()) is None
    assert find_configfs(FakeSystem({})) is None


def test_a_kernel_that_may_not_be_asked_says_so():
    configfs = snp_configfs()
    configfs.errors["mkdir"] = errno.EACCES
    with pytest.raises(PlatformError, match=r"configfs-tsm: found permission denied \(EACCES\)") as caught:
        find_configfs(configfs.machine())
    assert "root" in caught.value.hint


def test_a_request_that_another_disturbs_is_made_again():
    configfs = snp_configfs()
    left = [3]

    def disturb(request, attribute):
        if attribute == "outblob" and left[0]:
            left[0] -= 1
            request.write_inblob(OTHER_DATA)

    configfs.on_open = disturb
    system = configfs.machine()
    attested = find_configfs(system).attest(REPORT_DATA)
    assert_judged(attested, at=snp.AT, anchors=AMD.anchors, freshness="snp.report_data")
    assert left == [0]
    assert_clean(configfs, system)


@pytest.mark.parametrize("attribute", ["inblob", "outblob", "auxblob"])
def test_a_request_that_is_disturbed_without_end_is_given_up(attribute):
    """A generation that never comes out right once made a whole daemon spin."""
    configfs = snp_configfs()
    configfs.on_open = lambda request, opened: request.write_inblob(OTHER_DATA) if opened == attribute else None
    system = assert_fails(configfs, "disturbed 5 times", hint="writes to other programs' requests")
    assert len([path for _, path in system.calls if path.endswith("/outblob")]) == 5


def test_a_generation_that_cannot_count_on_is_busy():
    configfs = snp_configfs()
    configfs.generation = (1 << 64) - 1
    assert_fails(configfs, "found a report that is being rewritten without end (EBUSY)")


def test_an_inblob_that_is_lost_in_silence_is_noticed():
    configfs = FakeConfigfs(Provider("tdx_guest", lambda data, _: (data, b"")))
    configfs.generation = (1 << 64) - 1
    assert_fails(configfs, "found a request that the device refuses (EINVAL)")


def test_the_generation_wraps():
    configfs = FakeConfigfs(Provider("tdx_guest", lambda data, _: (data, b"")))
    done = []

    def wrap(request, attribute):
        if attribute == "generation" and not done:
            done.append(request)
            request.written = request.made = (1 << 64) - 1

    configfs.on_open = wrap
    attested = ConfigfsAttester(configfs.machine(), "tdx_guest").attest(REPORT_DATA)
    assert record(attested.evidence).value == REPORT_DATA
    assert done[0].written == 0


def test_a_report_larger_than_the_kernel_passes_on():
    configfs = snp_configfs()
    configfs.max_blob_bytes = 1000
    assert_fails(configfs, "larger than the kernel passes on (EFBIG)", hint="newer kernel")


def test_a_report_larger_than_a_message_takes():
    configfs = FakeConfigfs(Provider("tdx_guest", lambda *_: (bytes(MAX_EVIDENCE_BYTES + 1), b"")))
    assert_fails(configfs, "EFBIG")


def test_an_empty_report_is_none():
    assert_fails(FakeConfigfs(Provider("tdx_guest", lambda *_: (b"", b""))), "found 0 bytes, want 1 to")


@pytest.mark.parametrize(
    ("number", "words", "hint"),
    [
        (errno.ENXIO, "no provider of reports (ENXIO)", "no guest of a TEE"),
        (errno.ENOTTY, "a device without a key (ENOTTY)", "start the machine again"),
        (errno.EIO, "a failure of the device (EIO)", "dmesg"),
        (errno.ETIMEDOUT, "no answer in time (ETIMEDOUT)", "quoting service"),
        (errno.ENOMEM, "cannot allocate memory (ENOMEM)", None),
    ],
)
@pytest.mark.parametrize("attribute", ["generation", "privlevel", "inblob", "outblob", "auxblob"])
def test_errors_have_their_own_words(number, words, hint, attribute):
    configfs = snp_configfs()
    configfs.errors[attribute] = number
    assert_fails(configfs, f"configfs-tsm, snp: found {words}", hint=hint)


def test_a_tdx_host_without_quoting_service():
    guest = FakeTdxGuest(INTEL, PLATFORM)
    guest.error = errno.ETIMEDOUT
    assert_fails(guest.configfs, "no answer in time (ETIMEDOUT)", hint="quoting service")


def test_a_name_that_is_taken_is_not_taken_over():
    configfs = snp_configfs()
    configfs.taken = 3
    system = configfs.machine()
    ConfigfsAttester(system, "sev_guest").attest(REPORT_DATA)
    assert len([1 for call, _ in system.calls if call == "mkdir"]) == 4
    assert_clean(configfs, system)
    configfs.taken = 1000
    assert_fails(configfs, "8 random names taken")


def test_a_request_that_cannot_be_removed_is_said():
    configfs = snp_configfs()
    configfs.errors["rmdir"] = errno.EBUSY
    with pytest.raises(PlatformError, match="EBUSY"):
        ConfigfsAttester(configfs.machine(), "sev_guest").attest(REPORT_DATA)
    configfs.errors["rmdir"] = errno.ENOENT
    ConfigfsAttester(configfs.machine(), "sev_guest").attest(REPORT_DATA)


def test_the_first_error_is_told_where_removing_fails_too():
    configfs = snp_configfs()
    configfs.errors |= {"rmdir": errno.EBUSY, "outblob": errno.EIO}
    with pytest.raises(PlatformError, match="EIO"):
        ConfigfsAttester(configfs.machine(), "sev_guest").attest(REPORT_DATA)


@pytest.mark.parametrize("floor", [4, 1 << 40])
def test_refuses_a_floor_that_no_level_has(floor):
    assert_fails(snp_configfs(floor=floor), f"privlevel_floor: found {floor}, want 0 to 3")


def test_refuses_a_report_over_other_data():
    source = snp_source(AMD)
    configfs = FakeConfigfs(snp_provider(lambda _, vmpl: source(OTHER_DATA, vmpl)))
    assert_fails(configfs, "found a report over other report data")


def test_refuses_a_report_that_is_none():
    configfs = FakeConfigfs(snp_provider(lambda *_: (bytes(1184), b"")))
    assert_fails(configfs, "cannot attest: configfs-tsm", error=DecodeError)


def test_extending_rtmr3_shows_in_the_next_quote():
    guest = FakeTdxGuest(INTEL, PLATFORM)
    register = find_configfs(guest.machine()).register
    assert register.read() == bytes(48)
    assert register.extend(DIGEST) == register.predict(DIGEST) == guest.rtmr3.value
    second = register.extend(DIGEST)
    assert second == register.predict(DIGEST, register.predict(DIGEST)) == register.read()
    attested = find_configfs(guest.machine()).attest(REPORT_DATA)
    result = judge(
        attested,
        at=dcap.AT,
        anchors=TrustAnchors(intel=(INTEL.root.der,)),
        endorsements=Endorsements(intel=(INTEL.make_collateral(TDX, PLATFORM),)),
    )
    result.require()
    assert result.subject.named()["rtmr3"] == second


def test_a_trust_domain_whose_kernel_cannot_extend_its_register_says_so():
    """It has a register all the same, and a Keep runs nothing without having extended it."""
    attester = find_configfs(FakeTdxGuest(INTEL, PLATFORM).machine(has_register=False))
    assert attester.attest(bytes(64)).evidence
    for call in (attester.register.read, lambda: attester.register.extend(DIGEST)):
        with pytest.raises(PlatformError, match="TDX RTMR3: found not there") as refused:
            call()
        assert "Linux 6.16" in refused.value.hint


def test_a_register_that_does_not_change_is_noticed():
    guest = FakeTdxGuest(INTEL, PLATFORM)
    guest.rtmr3.ignores = True
    with pytest.raises(PlatformError, match=f"cannot extend TDX RTMR3: found {'00' * 48} after it, want"):
        TdxRegister(guest.machine()).extend(DIGEST)


@pytest.mark.parametrize("size", [0, 32, 47, 49, 64])
def test_a_register_takes_48_bytes(size):
    register = TdxRegister(FakeTdxGuest(INTEL, PLATFORM).machine())
    for call in (register.extend, register.predict):
        with pytest.raises(UsageError, match=f"digest: found {size} bytes, want 48"):
            call(bytes(size))


def test_a_register_of_another_size_is_refused():
    guest = FakeTdxGuest(INTEL, PLATFORM)
    guest.rtmr3.value = bytes(32)
    with pytest.raises(PlatformError, match="cannot read TDX RTMR3: found 32 bytes, want 48"):
        TdxRegister(guest.machine()).read()


def test_a_register_that_is_gone_is_said():
    with pytest.raises(PlatformError, match="TDX RTMR3: found not there"):
        TdxRegister(FakeSystem({})).extend(DIGEST)
