# SPDX-License-Identifier: Apache-2.0
# The exception that longjmp is, which the C library leaves to the program to define.
	.tagtype __c_longjmp i32
	.globl __c_longjmp
__c_longjmp:
