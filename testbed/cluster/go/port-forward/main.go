// Serves /portForward/NAMESPACE/POD of a kubelet, with the code of Kubernetes for it.
//
// usage: port-forward ADDRESS CERTIFICATES NETWORKS
//
// CERTIFICATES is a folder with ca.crt, server.crt and server.key; clients need a certificate of the CA. NETWORKS
// has a link NAMESPACE_POD to the network namespace of each Pod. Prints a line once it listens.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

const (
	// As a kubelet has them.
	idle     = 4 * time.Hour
	creation = 30 * time.Second
)

// pods forwards to the Pods that have a link in this folder.
type pods struct{ networks string }

func (p pods) PortForward(_ context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	connection, err := dialed(filepath.Join(p.networks, name), port)
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		// An error ends the other direction too.
		_, _ = io.Copy(connection, stream)
		_ = connection.CloseWrite()
	}()
	_, err = io.Copy(stream, connection)
	return err
}

// dialed connects to a port on loopback in a network namespace.
func dialed(network string, port int32) (*net.TCPConn, error) {
	type result struct {
		connection net.Conn
		err        error
	}
	results := make(chan result)
	go func() {
		// The thread ends with its goroutine, as it is never unlocked: it belongs to the Pod then.
		runtime.LockOSThread()
		connection, err := func() (net.Conn, error) {
			file, err := os.Open(network)
			if err != nil {
				return nil, fmt.Errorf("the Pod has no network: %w", err)
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			// One address: no other goroutine dials.
			return net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
		}()
		results <- result{connection, err}
	}()
	found := <-results
	if found.err != nil {
		return nil, found.err
	}
	return found.connection.(*net.TCPConn), nil
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: port-forward ADDRESS CERTIFICATES NETWORKS")
	}
	address, certificates := os.Args[1], os.Args[2]
	authority, err := os.ReadFile(filepath.Join(certificates, "ca.crt"))
	if err != nil {
		log.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority)
	own, err := tls.LoadX509KeyPair(
		filepath.Join(certificates, "server.crt"), filepath.Join(certificates, "server.key"))
	if err != nil {
		log.Fatal(err)
	}
	forwarder := pods{os.Args[3]}
	http.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		name := r.PathValue("namespace") + "_" + r.PathValue("pod")
		portforward.ServePortForward(
			w, r, forwarder, name, "", options, idle, creation, portforward.SupportedProtocols)
	})
	listener, err := tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{own},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
		// The connection is upgraded, which is of HTTP/1.1 alone.
		NextProtos: []string{"http/1.1"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("{}")
	log.Fatal(http.Serve(listener, nil))
}
