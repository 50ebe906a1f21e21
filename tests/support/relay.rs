//! Between TCP, which stories speak, and unix sockets, which tidegate can speak as well: every byte is passed on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

/// Listens on a unix socket at `path` and passes what comes on to `address`.
pub fn from_unix(path: &Path, address: SocketAddr) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for here in listener.incoming().map_while(Result::ok) {
            if let Ok(there) = TcpStream::connect(address) {
                join(here, there);
            }
        }
    });
}

/// Listens on a port and passes what comes on to the unix socket at `path`.
pub fn to_unix(path: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let path = path.to_owned();
    thread::spawn(move || {
        for there in listener.incoming().map_while(Result::ok) {
            if let Ok(here) = UnixStream::connect(&path) {
                join(here, there);
            }
        }
    });
    address
}

fn join(unix: UnixStream, tcp: TcpStream) {
    let (unix_too, tcp_too) = (unix.try_clone().unwrap(), tcp.try_clone().unwrap());
    thread::spawn(move || {
        pass_on(&unix_too, &tcp_too);
        let _it_may_be_gone = tcp_too.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        pass_on(&tcp, &unix);
        let _it_may_be_gone = unix.shutdown(Shutdown::Write);
    });
}

fn pass_on(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}
