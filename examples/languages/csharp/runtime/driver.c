/* SPDX-License-Identifier: Apache-2.0 */
/* The command in main.wasm: runs /app/main.exe with its arguments, and ends with its status. */
#include <dirent.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <mono/metadata/appdomain.h>
#include <mono/metadata/assembly.h>
#include <mono/metadata/mono-config.h>
#include <mono/mini/jit.h>
#include <mono/utils/mono-dl-fallback.h>
#include "System.Native/pal_errno.h"
#include "System.Native/pal_io.h"

#define PROGRAM "/app/main.exe"

/* The class library calls a library System.Native, which would be a file; these are the parts that it needs for files. */

static int32_t fill(const struct stat *from, struct FileStatus *to)
{
    memset(to, 0, sizeof *to);
    /* WASI's files have no permission bits. */
    to->Mode = from->st_mode | 0700;
    to->Size = from->st_size;
    to->Dev = from->st_dev;
    to->Ino = from->st_ino;
    to->ATime = from->st_atim.tv_sec;
    to->ATimeNsec = from->st_atim.tv_nsec;
    to->MTime = from->st_mtim.tv_sec;
    to->MTimeNsec = from->st_mtim.tv_nsec;
    to->CTime = from->st_ctim.tv_sec;
    to->CTimeNsec = from->st_ctim.tv_nsec;
    return 0;
}

static int32_t native_stat(const char *path, struct FileStatus *to)
{
    struct stat from;
    return stat(path, &from) ? -1 : fill(&from, to);
}

static int32_t native_lstat(const char *path, struct FileStatus *to)
{
    struct stat from;
    return lstat(path, &from) ? -1 : fill(&from, to);
}

static int32_t native_error(int32_t number)
{
    switch (number) {
    case EACCES:
        return Error_EACCES;
    case EEXIST:
        return Error_EEXIST;
    case ENOENT:
        return Error_ENOENT;
    case ENOTDIR:
        return Error_ENOTDIR;
    default:
        return Error_ENONSTANDARD;
    }
}

static int32_t native_entry(DIR *directory, uint8_t *buffer, int32_t size, struct DirectoryEntry *to)
{
    struct dirent *entry;

    memset(to, 0, sizeof *to);
    errno = 0;
    entry = readdir(directory);
    if (!entry)
        return errno ? errno : -1;
    to->Name = entry->d_name;
    to->NameLength = -1;
    to->InodeType = entry->d_type == DT_DIR ? PAL_DT_DIR : entry->d_type == DT_LNK ? PAL_DT_LNK : PAL_DT_REG;
    return 0;
}

static int32_t no_buffer(void)
{
    return 0;
}

static void native_random(uint8_t *to, int32_t size)
{
    for (int32_t i = 0; i < size; i += 256)
        getentropy(to + i, size - i < 256 ? size - i : 256);
}

static int32_t no_hidden_flag(void)
{
    return 0;
}

static const struct {
    const char *name;
    void *function;
} natives[] = {
    {"SystemNative_CloseDir", (void *)closedir},
    {"SystemNative_ConvertErrorPlatformToPal", (void *)native_error},
    {"SystemNative_GetNonCryptographicallySecureRandomBytes", (void *)native_random},
    {"SystemNative_GetReadDirRBufferSize", (void *)no_buffer},
    {"SystemNative_LChflagsCanSetHiddenFlag", (void *)no_hidden_flag},
    {"SystemNative_LStat", (void *)native_lstat},
    {"SystemNative_LStat2", (void *)native_lstat},
    {"SystemNative_OpenDir", (void *)opendir},
    {"SystemNative_ReadDirR", (void *)native_entry},
    {"SystemNative_Stat", (void *)native_stat},
    {"SystemNative_Stat2", (void *)native_stat},
};

static void *load(const char *name, int flags, char **error, void *data)
{
    return name && strstr(name, "System.Native") ? (void *)natives : NULL;
}

static void *symbol(void *library, const char *name, char **error, void *data)
{
    for (size_t i = 0; i < sizeof natives / sizeof *natives; i++)
        if (strcmp(name, natives[i].name) == 0)
            return natives[i].function;
    return NULL;
}

/* In place of Mono's own, which is called with an argument more than it has: WebAssembly traps there. */
static void no_cleanup(MonoDomain *domain, void *data)
{
}

int main(int argc, char **argv)
{
    /* What is printed is UTF-8. */
    setlocale(LC_ALL, "C.UTF-8");
    setenv("MONO_PATH", "/mono", 0);
    mono_set_assemblies_path("/mono");
    mono_config_parse(NULL);
    /* Everything is interpreted. */
    mono_jit_set_aot_mode(MONO_AOT_MODE_INTERP_LLVMONLY);
    mono_dl_fallback_register(load, symbol, NULL, NULL);
    MonoDomain *domain = mono_jit_init_version("main", "v4.0.30319");
    mono_install_runtime_cleanup(no_cleanup);
    MonoAssembly *assembly = mono_domain_assembly_open(domain, PROGRAM);
    if (!assembly) {
        fprintf(stderr, "mono: cannot open " PROGRAM "\n");
        return 2;
    }
    argv[0] = PROGRAM;
    int status = mono_jit_exec(domain, assembly, argc, argv);
    fflush(NULL);
    return status;
}
