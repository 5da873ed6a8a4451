# SPDX-License-Identifier: Apache-2.0
"""Programs the tests run, and what builds them on demand. Nothing here is part of the product."""
