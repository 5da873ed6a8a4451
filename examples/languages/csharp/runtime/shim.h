/* SPDX-License-Identifier: Apache-2.0 */
/* Included before every file of Mono: what WASI does not declare. */
#ifndef MONO_WASI_SHIM
#define MONO_WASI_SHIM
#ifndef __ASSEMBLER__
#include <stddef.h>
#include <sys/types.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* In place of emscripten.h. */
#define EMSCRIPTEN_KEEPALIVE __attribute__((used))

/* No thread of finalizers is started. */
#define LAZY_GC_THREAD_CREATION

/* Constants of things that never happen here, and functions that are compiled in and never called, or are in compat.c. */
#define PF_UNIX AF_UNIX
#define MAP_32BIT 0
#define SCHED_OTHER 0
#define SCHED_FIFO 1
#define SCHED_RR 2
#define WNOHANG 1
#define WIFSIGNALED(s) 0
#define WIFEXITED(s) 1
#define WTERMSIG(s) 0
#define WEXITSTATUS(s) 0
#define F_RDLCK 0
#define F_WRLCK 1
#define F_UNLCK 2
#define F_SETLK 6
#define SA_RESTART 0
#define SA_SIGINFO 0
#define SA_NODEFER 0
#define SIG_BLOCK 0
#define SIG_UNBLOCK 1
#define SIG_SETMASK 2
typedef struct { int si_signo, si_code; void *si_addr; } siginfo_t;
struct sigaction { void (*sa_sigaction)(int, siginfo_t *, void *); void (*sa_handler)(int); sigset_t sa_mask; int sa_flags; };
int sigaction(int, const struct sigaction *, struct sigaction *);
int sigemptyset(sigset_t *);
int sigaddset(sigset_t *, int);
char *mktemp(char *);
int mkstemp(char *);
pid_t waitpid(pid_t, int *, int);
uid_t geteuid(void);
gid_t getegid(void);
uid_t getuid(void);
gid_t getgid(void);
int kill(pid_t, int);
pid_t fork(void);
int pipe(int *);
int dup(int);
int dup2(int, int);
mode_t umask(mode_t);

/* In place of uuid.h. */
typedef unsigned char uuid_t[16];
void uuid_generate(uuid_t);

/* Where nothing is: driver.c says where the class library is. */
#define MONO_BINDIR "/"
#define MONO_ASSEMBLIES "/"
#define MONO_CFG_DIR "/"
#define MONO_RELOC_LIBDIR "/"

/* In place of eglib-config.h. */
#define G_GNUC_PRETTY_FUNCTION
#define G_GNUC_UNUSED __attribute__((__unused__))
#define G_GNUC_NORETURN __attribute__((__noreturn__))
#define G_BYTE_ORDER G_LITTLE_ENDIAN
#define G_SEARCHPATH_SEPARATOR_S ":"
#define G_SEARCHPATH_SEPARATOR ':'
#define G_DIR_SEPARATOR_S "/"
#define G_DIR_SEPARATOR '/'
#define G_BREAKPOINT() abort()
#define G_OS_UNIX
#define G_HAVE_ALLOCA_H
#define G_HAVE_UNISTD_H
#define G_GSIZE_FORMAT "lu"
typedef size_t gsize;
typedef ptrdiff_t gssize;
typedef int GPid;
#endif
#endif
