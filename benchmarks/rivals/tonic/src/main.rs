//! A relay on tonic that decides nothing: it serves ext_proc on a Unix socket, opens one stream to the
//! picker for each of Envoy's, and copies messages both ways as bytes that are never read.
//!
//!     relay SOCKET PICKER

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::server::StreamingService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tower::Service;

// As nghttpx in the same run: its default windows, and no bound of streams.
const WINDOW: u32 = 65_535;
const BACKEND_WINDOW: u32 = (1 << 31) - 1;
const STREAMS: u32 = 65_536;
const LARGEST: usize = 1 << 30;

type Messages = Pin<Box<dyn tokio_stream::Stream<Item = Result<Bytes, Status>> + Send>>;
type Later<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One stream: Envoy's messages become the body of a request to the picker.
struct Relayed {
    picker: Channel,
    path: PathAndQuery,
}

impl StreamingService<Bytes> for Relayed {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Later<Response<Messages>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (picker, path) = (self.picker.clone(), self.path.clone());
        Box::pin(async move {
            let mut client = tonic::client::Grpc::new(picker).max_decoding_message_size(LARGEST);
            client
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            // An error of Envoy's stream ends the picker's.
            let messages = request.into_inner().map_while(Result::ok);
            let answer = client.streaming(Request::new(messages), path, Raw).await?;
            Ok(Response::new(Box::pin(answer.into_inner()) as Messages))
        })
    }
}

#[derive(Clone)]
struct Relay {
    picker: Channel,
}

impl Service<http::Request<Body>> for Relay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Later<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let picker = self.picker.clone();
        Box::pin(async move {
            let path = request.uri().path_and_query().cloned();
            let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
            let mut server = tonic::server::Grpc::new(Raw).max_decoding_message_size(LARGEST);
            Ok(server.streaming(Relayed { picker, path }, request).await)
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, socket, picker] = &arguments[..] else {
        return Err("relay SOCKET PICKER".into());
    };
    let picker = Endpoint::from_shared(format!("http://{picker}"))?
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(BACKEND_WINDOW)
        .connect_lazy();
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(STREAMS)
        .serve_with_incoming(Relay { picker }, incoming)
        .await?;
    Ok(())
}
