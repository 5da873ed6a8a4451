;; SPDX-License-Identifier: Apache-2.0
;; Makes a command of ruby.wasm, which is a library for a JavaScript host: `_start` does what that host would do.
;; It starts the interpreter with the program's arguments and has it load /app/main.rb.
(module
  (import "ruby" "memory" (memory 1))
  (import "ruby" "cabi_realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "ruby" "_initialize" (func $initialize))
  (import "ruby" "ruby-init: func(args: list<string>) -> ()" (func $ruby_init (param i32 i32)))
  (import "ruby" "rb-eval-string-protect: func(str: string) -> tuple<handle<rb-abi-value>, s32>"
    (func $eval (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  ;; Three options before the program's arguments; -e says that the program is not among them.
  (data $options "ruby\00-EUTF-8\00-e0\00--\00")
  (data $program
    "status = 1\n"
    "begin\n"
    "  $0 = '/app/main.rb'\n"
    "  load $0\n"
    "  status = 0\n"
    "rescue SystemExit => e\n"
    "  status = e.status\n"
    "rescue Exception => e\n"
    "  $stderr.write(e.full_message)\n"
    "end\n"
    "$stdout.flush\n"
    "exit!(status)\n")

  (func $allocate (param $size i32) (result i32)
    (call $realloc (i32.const 0) (i32.const 0) (i32.const 8) (local.get $size)))

  ;; Writes a string of the list that ruby-init takes, its closing NUL included. Returns where the next one begins.
  (func $put (param $entry i32) (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (loop $next
      (local.set $end (i32.add (local.get $end) (i32.const 1)))
      (br_if $next (i32.load8_u (i32.sub (local.get $end) (i32.const 1)))))
    (i32.store (local.get $entry) (local.get $text))
    (i32.store offset=4 (local.get $entry) (i32.sub (local.get $end) (local.get $text)))
    (local.get $end))

  (func (export "_start")
    (local $sizes i32) (local $argc i32) (local $argv i32) (local $list i32) (local $text i32) (local $i i32)
    (call $initialize)
    (local.set $sizes (call $allocate (i32.const 8)))
    (drop (call $args_sizes_get (local.get $sizes) (i32.add (local.get $sizes) (i32.const 4))))
    (local.set $argc (i32.load (local.get $sizes)))
    (local.set $argv (call $allocate (i32.add (i32.const 8) (i32.mul (local.get $argc) (i32.const 4)))))
    (local.set $text (call $allocate (i32.add (i32.const 1) (i32.load offset=4 (local.get $sizes)))))
    (drop (call $args_get (local.get $argv) (local.get $text)))

    ;; Four strings of ours, then the arguments after the module's own name.
    (local.set $list (call $allocate (i32.mul (i32.add (local.get $argc) (i32.const 4)) (i32.const 8))))
    (local.set $text (call $allocate (i32.const 20)))
    (memory.init $options (local.get $text) (i32.const 0) (i32.const 20))
    (loop $ours
      (local.set $text
        (call $put (i32.add (local.get $list) (i32.mul (local.get $i) (i32.const 8))) (local.get $text)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $ours (i32.lt_u (local.get $i) (i32.const 4))))
    (local.set $i (i32.const 1))
    (block $done
      (loop $theirs
        (br_if $done (i32.ge_u (local.get $i) (local.get $argc)))
        (drop (call $put
          (i32.add (local.get $list) (i32.mul (i32.add (local.get $i) (i32.const 3)) (i32.const 8)))
          (i32.load (i32.add (local.get $argv) (i32.mul (local.get $i) (i32.const 4))))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $theirs)))
    (call $ruby_init (local.get $list)
      (i32.add (i32.const 4) (select (i32.sub (local.get $argc) (i32.const 1)) (i32.const 0) (local.get $argc))))

    (local.set $text (call $allocate (i32.const 256)))
    (memory.init $program (local.get $text) (i32.const 0) (i32.const 191))
    (drop (call $eval (local.get $text) (i32.const 191)))
    (call $proc_exit (i32.const 1)))
)
