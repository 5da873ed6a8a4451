;; SPDX-License-Identifier: Apache-2.0
;; Does what no program may, and is ended for it.
(module
  (memory (export "memory") 1)
  (func $look_beyond_its_memory (result i32)
    (i32.load (i32.const 0x7fffffff)))
  (func $visit
    (drop (call $look_beyond_its_memory)))
  (func (export "_start")
    (call $visit)))
