/* SPDX-License-Identifier: Apache-2.0 */
/* What Mono calls and WASI has not. */
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* Nothing is collected: references in WebAssembly's own variables cannot be found. */
int mono_wasm_enable_gc = 0;

/* There is one thread: nobody ends a wait that would block. */

int sem_init(sem_t *s, int shared, unsigned value)
{
    *(volatile unsigned *)s = value;
    return 0;
}

int sem_destroy(sem_t *s)
{
    return 0;
}

int sem_post(sem_t *s)
{
    ++*(volatile unsigned *)s;
    return 0;
}

int sem_trywait(sem_t *s)
{
    if (*(volatile unsigned *)s == 0) {
        errno = EAGAIN;
        return -1;
    }
    --*(volatile unsigned *)s;
    return 0;
}

int sem_wait(sem_t *s)
{
    if (sem_trywait(s) == 0)
        return 0;
    fputs("mono: a wait for another thread, and there is none\n", stderr);
    abort();
}

/* No terminals, processes, users, signals and log. */

static int none(int number)
{
    errno = number;
    return -1;
}

int tcgetattr(int fd, void *t) { return none(ENOTTY); }
int tcsetattr(int fd, int when, const void *t) { return none(ENOTTY); }
int tcflush(int fd, int which) { return none(ENOTTY); }
int pipe(int *fds) { return none(ENOSYS); }
int dup(int fd) { return none(ENOSYS); }
int mkstemp(char *name) { return none(ENOSYS); }
uid_t geteuid(void) { return 0; }
gid_t getegid(void) { return 0; }
struct passwd *getpwuid(uid_t user) { return NULL; }
int sigprocmask(int how, const sigset_t *set, sigset_t *old) { return 0; }
int sigemptyset(sigset_t *set) { return 0; }
int sigaddset(sigset_t *set, int number) { return 0; }
void syslog(int priority, const char *format, ...) {}

/* No page of a browser around Mono, and no debugger in it. */

void schedule_background_exec(void) {}
void mono_set_timeout(int after, int id) {}
int mono_native_thread_get_name(void *thread, char *name, unsigned long size) { return 0; }
void mini_register_sigterm_handler(void) {}
void mono_wasm_fire_bp(void) {}
void mono_wasm_add_frame(int a, int b, const char *c) {}
void mono_wasm_add_bool_var(signed char a) {}
void mono_wasm_add_number_var(double a) {}
void mono_wasm_add_string_var(const char *a) {}
void mono_wasm_add_obj_var(const char *a, unsigned long long b) {}
void mono_wasm_add_array_var(const char *a, unsigned long long b) {}
void mono_wasm_add_properties_var(const char *a) {}
void mono_wasm_add_array_item(int a) {}
