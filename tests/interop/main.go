// The peers that our wire is tested against: grpc-go as a server and as a client of streams of raw bytes.
//
//	grpc-go serve [flags]        serves on a port of 127.0.0.1, which is its first line of output; a line
//	                             "stop" on stdin begins GracefulStop, the end of stdin ends it
//	grpc-go call ADDRESS CASE    runs one case against a server; its output says what came of it
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	method   = "/test.Echo/Talk"
	noBounds = 1 << 30
)

type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (raw) Name() string                       { return "raw" }

func main() {
	if len(os.Args) == 4 && os.Args[1] == "call" {
		call(os.Args[2], os.Args[3])
		return
	}
	serve(os.Args[2:])
}

// --- the server ---

func serve(arguments []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	streams := flags.Uint("max-streams", 0, "SETTINGS_MAX_CONCURRENT_STREAMS; 0 offers all")
	window := flags.Int("window", 0, "bytes of stream and connection window; 0 lets grpc-go choose")
	age := flags.Duration("max-age", 0, "GOAWAY to connections of this age")
	ping := flags.Duration("ping", 0, "ping a silent client this often, and leave it if it does not answer")
	strict := flags.Bool("strict", false, "end connections that ping more often than once an hour")
	must(flags.Parse(arguments))

	options := []grpc.ServerOption{
		grpc.ForceServerCodec(raw{}),
		grpc.UnknownServiceHandler(handle),
		grpc.MaxRecvMsgSize(noBounds),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: *age, Time: *ping, Timeout: *ping,
		}),
	}
	if *streams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(uint32(*streams)))
	}
	if *window > 0 {
		options = append(options, grpc.InitialWindowSize(int32(*window)), grpc.InitialConnWindowSize(int32(*window)))
	}
	if *strict {
		options = append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Hour}))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := grpc.NewServer(options...)
	fmt.Println(listener.Addr())
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if lines.Text() == "stop" {
				go server.GracefulStop()
			}
		}
		os.Exit(0)
	}()
	must(server.Serve(listener))
}

// handle does what the metadata "act" asks for.
func handle(_ any, stream grpc.ServerStream) error {
	act, detail := "", ""
	if incoming, ok := metadata.FromIncomingContext(stream.Context()); ok {
		act, detail = first(incoming, "act"), first(incoming, "detail")
	}
	number, _ := strconv.Atoi(detail)
	switch act {
	case "refuse": // nothing but trailers
		return status.Error(codes.Code(number), "no: 100 % Ünïcode")
	case "big":
		message := make([]byte, number)
		return stream.SendMsg(&message)
	case "many": // messages in a row, as fast as they are taken
		for n := range number {
			message := []byte(strconv.Itoa(n))
			if err := stream.SendMsg(&message); err != nil {
				return err
			}
		}
		return nil
	case "silent":
		<-stream.Context().Done()
		return nil
	case "slow": // a reader that takes its time, and says what it has read
		sum := sha256.New()
		for {
			var message []byte
			if err := stream.RecvMsg(&message); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			sum.Write(message)
			time.Sleep(time.Duration(number) * time.Millisecond)
		}
		digest := sum.Sum(nil)
		return stream.SendMsg(&digest)
	}
	for { // echo
		var message []byte
		if err := stream.RecvMsg(&message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

func first(incoming metadata.MD, key string) string {
	if values := incoming.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// --- the client, of a server that echoes ---

func call(address, name string) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(noBounds)),
		grpc.WithInitialWindowSize(65_535), grpc.WithInitialConnWindowSize(65_535),
	}
	if name == "pings" {
		// grpc-go pings no more often than every ten seconds.
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	}
	connection, err := grpc.NewClient(address, options...)
	must(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	switch name {
	case "echo":
		sizes := []int{0, 1, 16_379, 16_380, 70_000, 5_000_000, 20_000_000}
		fmt.Println(echo(ctx, connection, sizes))
	case "many":
		var group sync.WaitGroup
		results := make([]string, 1000)
		for n := range results {
			group.Go(func() { results[n] = echo(ctx, connection, []int{640, n}) })
		}
		group.Wait()
		told := map[string]int{}
		for _, result := range results {
			told[result]++
		}
		fmt.Println(told)
	case "deadline":
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		stream := open(short, connection)
		var message []byte
		fmt.Println(status.Code(stream.RecvMsg(&message)))
	case "cancel":
		some, cancel := context.WithCancel(ctx)
		stream := open(some, connection)
		message := []byte("x")
		must(stream.SendMsg(&message))
		must(stream.RecvMsg(&message))
		cancel()
		fmt.Println(status.Code(stream.RecvMsg(&message)))
	case "gzip":
		stream := open(ctx, connection, grpc.UseCompressor(gzip.Name))
		message := []byte("x")
		must(stream.SendMsg(&message))
		fmt.Println(status.Code(stream.RecvMsg(&message)))
	case "status":
		fmt.Println(status.Convert(open(ctx, connection).RecvMsg(&[]byte{})))
	case "slow": // a reader that lets everything pile up first
		stream := open(ctx, connection)
		go func() {
			for range 200 {
				message := make([]byte, 50_000)
				must(stream.SendMsg(&message))
			}
			must(stream.CloseSend())
		}()
		time.Sleep(time.Second)
		fmt.Println(receive(stream, 200, func(int) int { return 50_000 }))
	case "pings":
		stream := open(ctx, connection)
		message := []byte("x")
		must(stream.SendMsg(&message))
		must(stream.RecvMsg(&message))
		time.Sleep(12 * time.Second)
		must(stream.SendMsg(&message))
		must(stream.RecvMsg(&message))
		must(stream.CloseSend())
		fmt.Println(status.Code(stream.RecvMsg(&message)) == codes.Unknown) // io.EOF: it ended well
	case "drain": // tells when the first answer has come; the server drains; both calls must be served
		stream := open(ctx, connection)
		message := []byte("x")
		must(stream.SendMsg(&message))
		must(stream.RecvMsg(&message))
		fmt.Println("begun")
		bufio.NewReader(os.Stdin).ReadString('\n')
		must(stream.SendMsg(&message))
		must(stream.RecvMsg(&message))
		must(stream.CloseSend())
		fmt.Println(stream.RecvMsg(&message) == io.EOF)
	default:
		panic("no such case: " + name)
	}
}

func open(ctx context.Context, connection *grpc.ClientConn, options ...grpc.CallOption) grpc.ClientStream {
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, options...)
	must(err)
	return stream
}

func echo(ctx context.Context, connection *grpc.ClientConn, sizes []int) string {
	stream := open(ctx, connection)
	go func() {
		for _, size := range sizes {
			message := make([]byte, size)
			if err := stream.SendMsg(&message); err != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	return receive(stream, len(sizes), func(n int) int { return sizes[n] })
}

// receive expects so many messages of these sizes, and then the end.
func receive(stream grpc.ClientStream, count int, size func(int) int) string {
	for n := range count {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return fmt.Sprintf("message %d: %v", n, err)
		}
		if len(message) != size(n) {
			return fmt.Sprintf("message %d: %d bytes instead of %d", n, len(message), size(n))
		}
	}
	var message []byte
	if err := stream.RecvMsg(&message); err != io.EOF {
		return fmt.Sprintf("no end: %v", err)
	}
	return "OK"
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
