// SPDX-License-Identifier: Apache-2.0
module key-manager

go 1.22
