;; SPDX-License-Identifier: Apache-2.0
;; Nothing to call: the only export is a memory.
(module
  (memory (export "memory") 1))
