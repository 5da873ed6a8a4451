;; SPDX-License-Identifier: Apache-2.0
;; The handles of Ruby's values: each is the value's own number, because here nobody but Ruby keeps them.
(module
  (func (export "resource_new_rb-abi-value") (param i32) (result i32)
    local.get 0)
  (func (export "resource_get_rb-abi-value") (param i32) (result i32)
    local.get 0)
  (func (export "resource_drop_js-abi-value") (param i32)))
