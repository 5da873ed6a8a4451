// SPDX-License-Identifier: Apache-2.0
module guests

go 1.21
