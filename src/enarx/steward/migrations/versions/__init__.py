# SPDX-License-Identifier: Apache-2.0
"""One module for each step. A step that was released is never changed."""
