// SPDX-License-Identifier: Apache-2.0
module log-service

go 1.22
