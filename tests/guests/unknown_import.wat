;; SPDX-License-Identifier: Apache-2.0
;; Imports a function that no WASI offers.
(module
  (import "elsewhere" "launch" (func $launch (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $launch (i32.const 1)))))
