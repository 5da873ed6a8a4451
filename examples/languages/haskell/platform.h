/* SPDX-License-Identifier: Apache-2.0 */
#define wasm32_HOST_ARCH 1
#define wasm32_TARGET_ARCH 1
#define none_HOST_OS 1
#define none_TARGET_OS 1
#define HOST_ARCH "wasm32"
#define TARGET_ARCH "wasm32"
#define HOST_OS "none"
#define TARGET_OS "none"
