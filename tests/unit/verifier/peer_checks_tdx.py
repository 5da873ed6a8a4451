# SPDX-License-Identifier: Apache-2.0
"""Which finding covers each check that other verifiers of TDX quotes make, and the tests that show it both ways."""

from __future__ import annotations

from tests.unit.verifier.peer_checks_sgx import PeerChecks, make_peer_checks

_POLICY = "test_a_policy_accepts_and_refuses"
_MODULE = "test_refuses_a_tdx_module_that_intel_does_not_describe"
_ACCEPTS = "test_accepts_a_quote_of_an_up_to_date_platform"

PEER_CHECKS: PeerChecks = make_peer_checks("tdx") | {
    "TDX module identity (MRSIGNERSEAM, attributes, per-version TCB)": (
        ("tdx.module.known", "tdx.module.mr_signer", "tdx.module.attributes", "tdx.module.tcb_level"),
        _ACCEPTS,
        _MODULE,
    ),
    "TDRelaunchAdvised from TEE_TCB_SVN2": (
        ("tdx.tcb.current_level", "tdx.tcb_status"),
        "test_advises_a_relaunch_after_an_update_of_the_module",
        _MODULE,
    ),
    "SEPT_VE_DISABLE": (("tdx.sept_ve_disable",), _POLICY, _POLICY),
    "mr_service_td (1.5)": (("tdx.mr_service_td",), _POLICY, _POLICY),
    "MRTD/RTMR/MRCONFIGID/MROWNER/MROWNERCONFIG/XFAM/attributes/MRSEAM list": (
        (
            "tdx.mr_td",
            "tdx.rtmr0",
            "tdx.rtmr1",
            "tdx.rtmr2",
            "tdx.rtmr3",
            "tdx.mr_config_id",
            "tdx.mr_owner",
            "tdx.mr_owner_config",
            "tdx.xfam",
            "tdx.td_attributes",
            "tdx.mr_seam",
            "tdx.mrsignerseam",
            "tdx.seam_attributes",
        ),
        _POLICY,
        _POLICY,
    ),
    "min TEE_TCB_SVN": (("tdx.tee_tcb_svn",), _POLICY, _POLICY),
    "CCEL/RTMR replay": (
        ("tdx.event_log.replay",),
        "test_accepts_event_logs_that_replay_to_the_rtmrs",
        "test_refuses_an_event_log_that_does_not_replay_to_the_rtmrs",
    ),
}
