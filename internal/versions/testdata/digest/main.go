// Command digest prints the digest of each folder that it is given, as NAME:VERSION DIGEST. A test builds it for other machines.
package main

import (
	"fmt"
	"os"

	"github.com/specproxy/specproxy/internal/versions"
)

func main() {
	for _, folder := range os.Args[1:] {
		files, err := versions.LoadFolder(os.DirFS(folder))
		if err == nil {
			var packed versions.Packed
			if packed, err = versions.Pack(files); err == nil {
				fmt.Println(packed.Ref(), packed.Digest)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, folder+":", err)
			os.Exit(1)
		}
	}
}
