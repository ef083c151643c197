// A server with tableflip: on SIGHUP it starts its own program anew and hands its listener over.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/cloudflare/tableflip"
)

func main() {
	flip, err := tableflip.New(tableflip.Options{})
	if err != nil {
		panic(err)
	}
	defer flip.Stop()
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGHUP)
		for range signals {
			if err := flip.Upgrade(); err != nil {
				fmt.Println("the upgrade failed:", err)
			}
		}
	}()
	listener, err := flip.Fds.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(response, "%d\n", os.Getpid())
	})
	server := &http.Server{}
	go server.Serve(listener)
	if err := flip.Ready(); err != nil {
		panic(err)
	}
	fmt.Printf("listening on %s, pid %d, generation 1\n", os.Args[1], os.Getpid())
	<-flip.Exit()
	server.Shutdown(context.Background())
}
