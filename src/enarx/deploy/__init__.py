# SPDX-License-Identifier: Apache-2.0
"""The tenant's side: challenge a Keep, judge it, entrust a package to it, talk to it. The only place where all of it meets.

Runs: tenant. Trusted by: the tenant, whose package, policy and keys are here; it trusts no host and, before the verdict, no Keep.

    package = load_package("app/")
    async with HostClient(parse_address("https://keeps.example")) as host:
        deployment = await deploy_package(
            package,
            host=host,
            policy=lambda: find_policy("policy.toml"),
            state_root=default_state_root(),
        )
        ended = await deployment.conversation.converse(Input(0), Output())

Whatever is missing raises an error of `enarx.errors`, and the Keep is taken down; `deployment.attested.judged.result` has
every finding of the verdict, `deployment.receipt_file` all that it rests on. `enarx deploy` is one client of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enarx.deploy.attaching import AttachedKeep, attach
    from enarx.deploy.attesting import Attested, Judged
    from enarx.deploy.connecting import keep_ssl_context
    from enarx.deploy.deploying import Deployment, deploy_package
    from enarx.deploy.folder import DeploymentFolder, default_state_root
    from enarx.deploy.host_client import HostClient, HostKeep, parse_address
    from enarx.deploy.keep_transport import AsyncKeepTransport, KeepTransport
    from enarx.deploy.own_host import private_host
    from enarx.deploy.package import DirectorySource, Package, load_package
    from enarx.deploy.policy import TenantPolicy, find_policy, find_steward, make_policy
    from enarx.deploy.receipt import rejudge
    from enarx.deploy.service_judge import JudgedService, KeepPolicy, ServiceJudge
    from enarx.deploy.session import Conversation, Detached, Ended
    from enarx.deploy.stdio import Input, Output
else:
    # The verifier takes a tenth of a second to load, which a Keep can boot in: what is not named is not loaded.
    _HOMES = {
        "AsyncKeepTransport": "keep_transport",
        "AttachedKeep": "attaching",
        "Attested": "attesting",
        "Conversation": "session",
        "Deployment": "deploying",
        "DeploymentFolder": "folder",
        "Detached": "session",
        "DirectorySource": "package",
        "Ended": "session",
        "HostClient": "host_client",
        "HostKeep": "host_client",
        "Input": "stdio",
        "Judged": "attesting",
        "JudgedService": "service_judge",
        "KeepPolicy": "service_judge",
        "KeepTransport": "keep_transport",
        "Output": "stdio",
        "Package": "package",
        "ServiceJudge": "service_judge",
        "TenantPolicy": "policy",
        "attach": "attaching",
        "default_state_root": "folder",
        "deploy_package": "deploying",
        "find_policy": "policy",
        "find_steward": "policy",
        "keep_ssl_context": "connecting",
        "load_package": "package",
        "make_policy": "policy",
        "parse_address": "host_client",
        "private_host": "own_host",
        "rejudge": "receipt",
    }

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            from importlib import import_module

            return getattr(import_module(f"enarx.deploy.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AsyncKeepTransport",
    "AttachedKeep",
    "Attested",
    "Conversation",
    "Deployment",
    "DeploymentFolder",
    "Detached",
    "DirectorySource",
    "Ended",
    "HostClient",
    "HostKeep",
    "Input",
    "Judged",
    "JudgedService",
    "KeepPolicy",
    "KeepTransport",
    "Output",
    "Package",
    "ServiceJudge",
    "TenantPolicy",
    "attach",
    "default_state_root",
    "deploy_package",
    "find_policy",
    "find_steward",
    "keep_ssl_context",
    "load_package",
    "make_policy",
    "parse_address",
    "private_host",
    "rejudge",
]
