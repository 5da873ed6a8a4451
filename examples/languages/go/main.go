// SPDX-License-Identifier: Apache-2.0
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
)

func main() {
	fmt.Println("Hello from Go!")

	arguments := os.Args[1:]
	fmt.Println("arguments:", strings.Join(arguments, " "))

	fmt.Println("NAME=" + os.Getenv("NAME"))

	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("stdin: %d bytes, %d lines\n", len(input), bytes.Count(input, []byte("\n")))

	poem, err := os.Open("/data/poem.txt")
	if err != nil {
		log.Fatal(err)
	}
	line, err := bufio.NewReader(poem).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print("poem: ", line)

	if slices.Contains(arguments, "fail") {
		os.Exit(3)
	}
}
