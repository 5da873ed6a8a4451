# SPDX-License-Identifier: Apache-2.0
"""The emulated platform: SEV-SNP reports by a software security processor of the host's, asked over the link.

What comes back is in the layout of the hardware's, and nothing in it says that it is not; whose root signed it does. It
proves nothing, and verifiers refuse it unless they were told to accept it.

What an exchange looks like is in `enarx.wire.platform_answer`.
"""

from __future__ import annotations

from collections.abc import Callable

from enarx.attester.attested import SNP_REPORT, Attested, RuntimeRegister, attested_snp, require_report_data
from enarx.errors import PlatformError
from enarx.wire.platform_answer import decode_answer_untrusted

__all__ = ["EmulatedAttester"]


class EmulatedAttester:
    """The host's emulated platform.

    Args:
        exchange: sends a request on a stream of its own, and returns the whole answer, of which it need not read more than
            `enarx.wire.platform_answer.MAX_ANSWER_BYTES` and one; it bounds its own time.
    """

    backend = "nil"
    media_type = SNP_REPORT
    register: RuntimeRegister | None = None

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def attest(self, report_data: bytes) -> Attested:
        """Ask for a report; see `enarx.attester.Attester`."""
        require_report_data(report_data)
        answer = self._exchange(report_data)
        if not answer:
            raise PlatformError(
                "cannot attest: the emulated platform: found no answer, want a report",
                hint="the host's log says why it refused",
            )
        report, table = decode_answer_untrusted(answer)
        return attested_snp(report, table, report_data, device="the emulated platform")
