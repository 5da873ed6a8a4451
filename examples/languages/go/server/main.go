// SPDX-License-Identifier: Apache-2.0
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	// Descriptor 3 is the socket that enarx opened.
	listener, err := net.FileListener(os.NewFile(3, "web"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(response http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(response, "Hello from Go!")
	})
	log.Fatal(http.Serve(listener, nil))
}
