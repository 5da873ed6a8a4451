# SPDX-License-Identifier: Apache-2.0
"""Public fakes: vendors' certificate authorities and writers of evidence in the exact layouts. Never imported by the rest."""
