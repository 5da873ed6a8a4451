# SPDX-License-Identifier: Apache-2.0
"""The try-it page: visitors run small modules in Keeps, and see output and verdict.

Runs: tenant. Trusted by: whoever visits. It is their tenant: it sees their modules, and they believe its verdicts as they believe its page.
Who has secrets deploys himself. It trusts no host, as no tenant does, and no visitor.
"""
