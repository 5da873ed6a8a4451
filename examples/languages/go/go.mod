module example.enarx.dev/languages

go 1.21
