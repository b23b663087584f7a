// A relay on grpc-go that decides nothing: it serves ext_proc on a Unix socket, opens one stream to the
// picker for each of Envoy's, and copies messages both ways.
//
//	relay [-typed] SOCKET PICKER
//
// Without -typed a message is bytes that are never read, as in a proxy of gRPC. With it messages are read
// into and written from Envoy's generated types, as whoever wants to look at them has to.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net"

	extproc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// As nghttpx in the same run: its default windows, and no bound of streams.
const (
	window        = 65535
	backendWindow = 1<<31 - 1
	streams       = 65536
	largest       = 1 << 30
)

var both = &grpc.StreamDesc{StreamName: "Process", ServerStreams: true, ClientStreams: true}

// raw passes the buffers of a message on without a copy.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) { return *v.(*mem.BufferSlice), nil }

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*v.(*mem.BufferSlice) = data
	return nil
}

// The name is a part of the content-type, which is to be Envoy's.
func (raw) Name() string { return "proto" }

func main() {
	typed := flag.Bool("typed", false, "read and write each message as Envoy's type")
	flag.Parse()
	socket, picker := flag.Arg(0), flag.Arg(1)

	connection, err := grpc.NewClient(
		"passthrough:///"+picker,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(backendWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest)),
	)
	if err != nil {
		log.Fatal(err)
	}
	options := []grpc.ServerOption{
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.MaxConcurrentStreams(streams),
		grpc.MaxRecvMsgSize(largest),
	}
	var server *grpc.Server
	if *typed {
		server = grpc.NewServer(options...)
		extproc.RegisterExternalProcessorServer(
			server, &processor{picker: extproc.NewExternalProcessorClient(connection)},
		)
	} else {
		server = grpc.NewServer(append(
			options,
			grpc.ForceServerCodecV2(raw{}),
			grpc.UnknownServiceHandler(func(_ any, envoy grpc.ServerStream) error {
				return relayRaw(connection, envoy)
			}),
		)...)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listener))
}

func relayRaw(connection *grpc.ClientConn, envoy grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(envoy)
	// Its end ends the stream to the picker, however that comes.
	ctx, cancel := context.WithCancel(envoy.Context())
	defer cancel()
	picker, err := connection.NewStream(ctx, both, method, grpc.ForceCodecV2(raw{}))
	if err != nil {
		return err
	}
	go func() {
		for {
			var message mem.BufferSlice
			if envoy.RecvMsg(&message) != nil {
				break
			}
			if picker.SendMsg(&message) != nil {
				break
			}
		}
		_ = picker.CloseSend()
	}()
	for {
		var message mem.BufferSlice
		if err := picker.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := envoy.SendMsg(&message); err != nil {
			return err
		}
	}
}

type processor struct {
	extproc.UnimplementedExternalProcessorServer
	picker extproc.ExternalProcessorClient
}

// Process relays one stream as typed messages.
func (p *processor) Process(envoy extproc.ExternalProcessor_ProcessServer) error {
	ctx, cancel := context.WithCancel(envoy.Context())
	defer cancel()
	picker, err := p.picker.Process(ctx)
	if err != nil {
		return err
	}
	go func() {
		for {
			message, err := envoy.Recv()
			if err != nil {
				break
			}
			if picker.Send(message) != nil {
				break
			}
		}
		_ = picker.CloseSend()
	}()
	for {
		message, err := picker.Recv()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := envoy.Send(message); err != nil {
			return err
		}
	}
}
