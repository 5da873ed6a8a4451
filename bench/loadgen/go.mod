// SPDX-License-Identifier: Apache-2.0

module enarx/bench/loadgen

go 1.25
