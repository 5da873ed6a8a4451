# SPDX-License-Identifier: Apache-2.0
"""Runs: keep. Trusted by: the tenant, once measured. The process inside the TEE that proves itself, opens one package and runs it.

It believes nothing of its host: `life` is the Keep from empty to ended, `session` what it says to a tenant, `provisioning` how a
package is opened, `supervisor` and `workload` the process that runs it, `ports` its sockets, `log` what it wrote. `main` starts it
as a process of a machine, `boot` and `guest` as all that there is in one.

It is measured, so it imports little: neither verifier, registry, endorsers, image nor pydantic, at any distance.
"""
