//! Where the admin side listens: a loopback port or a unix socket that only its owner may open.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::AdminAddress;

/// A bound socket that nobody is accepted from yet.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    address: String,
    pub(super) file: Option<SocketFile>,
}

/// The two kinds of sockets.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// How clients name it: `http://127.0.0.1:9901` or `unix:/path`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }
}

/// Binds `address`. A socket file that a killed process left behind is replaced.
///
/// # Errors
///
/// The address is taken, not ours to take, or names a file that is no socket. The caller says which address it was.
pub fn bind(address: &AdminAddress) -> io::Result<Listener> {
    match address {
        AdminAddress::Tcp(address) => bind_tcp(*address),
        AdminAddress::Unix(path) => bind_unix(path),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let address = format!("http://{}", socket.local_addr()?);
    Ok(Listener { socket: Socket::Tcp(socket), address, file: None })
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    refuse_what_is_in_use(path)?;
    let socket = bind_private(path)?;
    socket.set_nonblocking(true)?;
    let file = SocketFile::at(path)?;
    Ok(Listener { socket: Socket::Unix(socket), address: format!("unix:{}", path.display()), file: Some(file) })
}

fn refuse_what_is_in_use(path: &Path) -> io::Result<()> {
    let refused = |kind, why: &str| Err(io::Error::new(kind, why));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            refused(ErrorKind::AlreadyExists, "there is a file of another kind; name another path or move it away")
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => refused(ErrorKind::AddrInUse, "another process answers there"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Binds in a folder that nobody else can enter and moves the socket into place, so that there is no moment in which it
/// is open to others, or not there while an old one is replaced.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let nest = parent.join(format!(".tg{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&nest)?;
    let bound = bind_and_move(&nest.join("s"), path);
    let emptied = fs::remove_dir_all(&nest);
    let socket = bound?;
    emptied.map(|()| socket)
}

fn bind_and_move(from: &Path, to: &Path) -> io::Result<UnixListener> {
    let socket = UnixListener::bind(from)?;
    fs::set_permissions(from, Permissions::from_mode(0o600))?;
    fs::rename(from, to)?;
    Ok(socket)
}

/// A socket file, removed when this is dropped, unless another process has put its own there by then.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(&fs::symlink_metadata(path)?) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // Nothing to do about a failure: the next process replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> io::Result<Listener> {
        bind(&AdminAddress::Unix(path.to_owned()))
    }

    #[test]
    fn a_port_of_its_own_choosing_is_told() {
        let listener = bind(&AdminAddress::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let port: u16 = listener.address().strip_prefix("http://127.0.0.1:").unwrap().parse().unwrap();
        let taken = bind(&AdminAddress::Tcp(([127, 0, 0, 1], port).into())).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_socket_file_is_private_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = unix(&path).unwrap();
        assert_eq!(listener.address(), format!("unix:{}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = unix(&path).expect("nobody answers at the old one");
        assert_eq!(unix(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "the live one is left alone");
        drop(listener);
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert_eq!(unix(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = unix(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
