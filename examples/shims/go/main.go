// A shim for OTE that keeps its cluster in memory. It shows what the contract in proto/ote/api/shim/v1/shim.proto asks
// of a shim; a real one has a real cluster where cluster.go is.
//
//	ote-memory-shim --listen unix:/tmp/shim.sock
//	ote-ctl shim conformance unix:/tmp/shim.sock
package main

import (
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"example.com/ote-memory-shim/shimv1"
)

const grace = 2 * time.Second

func main() {
	address := flag.String("listen", "127.0.0.1:8262", "HOST:PORT or unix:/PATH")
	flag.Parse()
	listener, err := listen(*address)
	if err != nil {
		log.Fatalf("cannot listen on %s: %v", *address, err)
	}

	server := grpc.NewServer()
	shimv1.RegisterShimServiceServer(server, newShim())
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		// WatchStatus calls never end by themselves, so graceful needs a limit.
		time.AfterFunc(grace, server.Stop)
		server.GracefulStop()
	}()
	log.Printf("listening on %s", listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

func listen(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return net.Listen("tcp", address)
	}
	// A socket of an earlier run that was killed is in the way; anything else at this path is not ours to remove.
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", path)
}
