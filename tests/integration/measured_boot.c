// SPDX-License-Identifier: Apache-2.0
// PID 1 of a machine that says what its TPM has measured: PCRs and the firmware's log in hex on the first serial port.
// Drivers that a kernel does not have in it are files in the first folder.

#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define PCRS 24
#define DIGEST_BYTES 32

static void load(const char *path) {
    int module = open(path, O_RDONLY);
    if (module >= 0) {
        syscall(SYS_finit_module, module, "", 0);
        close(module);
    }
}

static void say_file(const char *name, const char *path) {
    FILE *file = fopen(path, "rb");
    int byte;
    if (file == NULL) {
        return;
    }
    printf("%s ", name);
    while ((byte = fgetc(file)) != EOF) {
        printf("%02x", byte);
    }
    printf("\n");
    fclose(file);
}

static void say_pcr(int tpm, int index) {
    // TPM2_PCR_Read without sessions, of one PCR in the bank of SHA-256.
    unsigned char command[20] = {0x80, 0x01, 0, 0, 0, 20, 0, 0, 0x01, 0x7e, 0, 0, 0, 1, 0, 0x0b, 3};
    unsigned char answer[256];
    ssize_t size;
    command[17 + index / 8] |= 1 << index % 8;
    if (write(tpm, command, sizeof command) != sizeof command) {
        return;
    }
    size = read(tpm, answer, sizeof answer);
    if (size < DIGEST_BYTES + 30) {
        return;
    }
    printf("PCR %d ", index);
    for (ssize_t at = size - DIGEST_BYTES; at < size; at++) {
        printf("%02x", answer[at]);
    }
    printf("\n");
}

int main(void) {
    int serial, tpm;
    mkdir("/sys", 0755);
    mount("dev", "/dev", "devtmpfs", 0, 0);
    mount("sys", "/sys", "sysfs", 0, 0);
    mount("security", "/sys/kernel/security", "securityfs", 0, 0);
    load("/tpm_tis_core.ko");
    load("/tpm_tis.ko");
    // Of the other kind there are names without a device.
    serial = open("/dev/ttyAMA0", O_RDWR);
    if (serial < 0) {
        serial = open("/dev/ttyS0", O_RDWR);
    }
    if (serial >= 0) {
        dup2(serial, 1);
    }
    tpm = open("/dev/tpm0", O_RDWR);
    for (int index = 0; tpm >= 0 && index < PCRS; index++) {
        say_pcr(tpm, index);
    }
    say_file("LOG", "/sys/kernel/security/tpm0/binary_bios_measurements");
    printf("DONE\n");
    fflush(stdout);
    tcdrain(1);
    reboot(RB_POWER_OFF);
    for (;;) {
        pause();
    }
}
