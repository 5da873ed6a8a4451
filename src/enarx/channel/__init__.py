# SPDX-License-Identifier: Apache-2.0
"""The way between a tenant and a Keep: the link that the host carries, the session inside it, and what is sealed beside it.

Runs: tenant, host (the link, and the length of what is sealed) and Keep. Trusted by: tenant and Keep for the session; nobody trusts the link.

Nothing is imported here: the host needs little of it, and a Keep is measured by what it loads.
"""
