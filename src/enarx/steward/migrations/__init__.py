# SPDX-License-Identifier: Apache-2.0
"""How the Steward's tables came to be, step by step, for alembic. `enarx.steward.store` runs them; there is no alembic.ini."""
