//! stub
use crate::{config::AdminAddress, control::overview::Overview};
use std::{io, sync::Arc};
#[derive(Debug)]
pub struct Listener(std::net::TcpListener);
pub fn bind(a: &AdminAddress) -> io::Result<Listener> {
    match a {
        AdminAddress::Tcp(a) => Ok(Listener(std::net::TcpListener::bind(a)?)),
        _ => unimplemented!(),
    }
}
impl Listener {
    pub fn address(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}
pub async fn serve(l: Listener, o: Arc<Overview>, shutdown: impl Future<Output = ()> + Send + 'static) {
    l.0.set_nonblocking(true).unwrap();
    let l = tokio::net::TcpListener::from_std(l.0).unwrap();
    let serve = async move {
        loop {
            use tokio::io::AsyncWriteExt;
            let (mut s, _) = l.accept().await.unwrap();
            let body = format!("{:?} {:?}", o.is_ready(), o.snapshot.load());
            let _ = s
                .write_all(
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}", body.len(), body)
                        .as_bytes(),
                )
                .await;
        }
    };
    tokio::select! { _ = serve => {}, _ = shutdown => {} }
}
