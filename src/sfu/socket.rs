//! The system calls of a worker: datagrams in batches, waiting, and being woken.
//!
//! This is the only module with `unsafe`. The batch calls take arrays of pointers; each is built on the stack for one call,
//! from exclusive or shared borrows that outlive the call, and the kernel keeps none of them.

#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg, epoll and eventfd have no safe form in the standard library"
)]

use std::{
    fs::File,
    io::{self, Read, Write},
    mem::{MaybeUninit, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::slab::{self, Buffer, DATAGRAM};

/// Datagrams of one system call. More gains nothing: the kernel's cost is per datagram.
pub const BATCH: usize = 64;

/// A worker's UDP socket.
pub struct Socket {
    socket: UdpSocket,
    /// Whether IPv4 addresses must be given to the kernel as IPv6 ones.
    mapped: bool,
}

impl Socket {
    /// A socket at `address`, with buffers for a burst.
    ///
    /// # Errors
    ///
    /// When the address is taken or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
            set_option(socket.as_fd(), libc::SOL_SOCKET, option, SOCKET_BUFFER)?;
        }
        Ok(Self {
            socket,
            mapped: address.is_ipv6(),
        })
    }

    /// The port it is bound to.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn local_port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Receives what is there, at most a batch.
    ///
    /// # Errors
    ///
    /// When the socket is broken; having nothing to receive is no error.
    pub fn receive(&self, inbox: &mut Inbox) -> io::Result<()> {
        inbox.received = 0;
        let mut names = [Name::UNSPECIFIED; BATCH];
        let mut parts = [NO_PART; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::zeroed() }; BATCH];
        let slots = inbox
            .buffers
            .iter_mut()
            .zip(&mut names)
            .zip(&mut parts)
            .zip(&mut headers);
        for (((buffer, name), part), header) in slots {
            *part = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: DATAGRAM,
            };
            write_header(header, name, Name::LENGTH, part);
        }
        // SAFETY: `headers` are `BATCH` initialised headers (zero is valid for all of their fields), and each points to a
        // name, a part and a buffer that are exclusively borrowed until the call returns, with their true lengths.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                COUNT,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                // An earlier datagram of ours was refused somewhere (ICMP): says nothing of the socket.
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => Ok(()),
                _ => Err(error),
            };
        }
        inbox.received = usize::try_from(count).unwrap_or(0).min(BATCH);
        for ((info, name), header) in inbox.info.iter_mut().zip(&names).zip(&headers) {
            // SAFETY: initialised above, for the kernel only writes integers into it.
            let header = unsafe { header.assume_init_ref() };
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            let length = if whole {
                usize::try_from(header.msg_len).unwrap_or(0)
            } else {
                0
            };
            *info = name.address().map(|from| (length, from));
        }
        Ok(())
    }

    /// Sends a batch and empties it. What the kernel does not take is lost.
    pub fn send(&self, outbox: &mut Outbox) {
        let mut names = [Name::UNSPECIFIED; BATCH];
        let mut parts = [NO_PART; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::zeroed() }; BATCH];
        let datagrams = outbox
            .buffers
            .iter_mut()
            .zip(&outbox.info)
            .take(outbox.waiting);
        let slots = datagrams.zip(&mut names).zip(&mut parts).zip(&mut headers);
        for ((((buffer, (to, length)), name), part), header) in slots {
            *name = Name::new(*to, self.mapped);
            *part = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: (*length).min(DATAGRAM),
            };
            write_header(header, name, name.length(), part);
        }
        let mut rest = headers.get_mut(..outbox.waiting).unwrap_or_default();
        while !rest.is_empty() {
            let count = u32::try_from(rest.len()).unwrap_or(0);
            // SAFETY: `rest` are initialised headers, each pointing to a name, a part and a buffer that are exclusively
            // borrowed until the end of this function, with their true lengths.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr().cast(),
                    count,
                    libc::MSG_DONTWAIT,
                )
            };
            let done = match usize::try_from(sent) {
                Ok(0) => break,
                Ok(sent) => sent,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => 1, // the first of them cannot be sent; the others may
            };
            rest = rest.get_mut(done..).unwrap_or_default();
        }
        outbox.waiting = 0;
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn write_header(
    header: &mut MaybeUninit<libc::mmsghdr>,
    name: &mut Name,
    name_length: libc::socklen_t,
    part: &mut libc::iovec,
) {
    // SAFETY: the header is zeroed, which is valid for all of its fields.
    let header = unsafe { header.assume_init_mut() };
    header.msg_hdr.msg_name = ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = name_length;
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
}

/// Where a batch is received.
pub struct Inbox {
    buffers: Vec<Buffer>,
    info: [Option<(usize, SocketAddr)>; BATCH],
    received: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffers: std::iter::repeat_with(slab::buffer).take(BATCH).collect(),
            info: [None; BATCH],
            received: 0,
        }
    }
}

impl Inbox {
    /// What was received: the buffer, the length of the datagram and its source.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (&mut Buffer, usize, SocketAddr)> {
        let datagrams = self.buffers.iter_mut().zip(&self.info).take(self.received);
        datagrams.filter_map(|(buffer, info)| info.map(|(length, from)| (buffer, length, from)))
    }

    /// Whether the batch was full, so that more may wait.
    pub fn is_full(&self) -> bool {
        self.received == BATCH
    }
}

/// Datagrams to send together.
pub struct Outbox {
    buffers: Vec<Buffer>,
    info: [(SocketAddr, usize); BATCH],
    waiting: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            buffers: std::iter::repeat_with(slab::buffer).take(BATCH).collect(),
            info: [(nowhere, 0); BATCH],
            waiting: 0,
        }
    }
}

impl Outbox {
    /// Room for the next datagram; `None` when the batch is full.
    pub fn room(&mut self) -> Option<&mut [u8; DATAGRAM]> {
        self.buffers
            .get_mut(self.waiting)
            .map(|buffer| &mut **buffer)
    }

    /// Adds the datagram that was written to [`room`](Self::room).
    pub fn push(&mut self, to: SocketAddr, length: usize) {
        if let Some(info) = self.info.get_mut(self.waiting) {
            *info = (to, length);
            self.waiting = self.waiting.wrapping_add(1);
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

/// An address as the kernel writes it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    // The constant is the size of the larger variant, 28.
    const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    const UNSPECIFIED: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    fn new(address: SocketAddr, mapped: bool) -> Self {
        let v6 = |address: SocketAddrV6| Self {
            v6: libc::sockaddr_in6 {
                sin6_family: INET6,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            },
        };
        match address {
            SocketAddr::V4(address) if mapped => v6(SocketAddrV6::new(
                address.ip().to_ipv6_mapped(),
                address.port(),
                0,
                0,
            )),
            SocketAddr::V4(address) => Self {
                v4: libc::sockaddr_in {
                    sin_family: INET,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                },
            },
            SocketAddr::V6(address) => v6(address),
        }
    }

    fn length(&self) -> libc::socklen_t {
        // SAFETY: all variants begin with the family, and every bit pattern of it is valid.
        if unsafe { self.family } == INET {
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        } else {
            Self::LENGTH
        }
    }

    /// The address, IPv4 also where the kernel says it as IPv6.
    fn address(&self) -> Option<SocketAddr> {
        // SAFETY: all variants begin with the family and are plain integers, and the union is as large as the larger one
        // and was initialised whole.
        match unsafe { self.family } {
            INET => {
                // SAFETY: as above.
                let name = unsafe { self.v4 };
                let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(ip.into(), u16::from_be(name.sin_port)))
            }
            INET6 => {
                // SAFETY: as above.
                let name = unsafe { self.v6 };
                let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
                let port = u16::from_be(name.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(ip) => SocketAddr::new(ip.into(), port),
                    None => SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }
}

/// Wakes a worker, and tells it to end.
#[derive(Clone)]
pub struct Bell {
    event: Arc<File>,
    stopped: Arc<AtomicBool>,
}

impl Bell {
    /// A silent one.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let event =
            descriptor(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        Ok(Self {
            event: Arc::new(File::from(event)),
            stopped: Arc::default(),
        })
    }

    /// Wakes the worker, now or when it next wants to sleep.
    pub fn ring(&self) {
        // It fails only when it has rung 2^64 times unheard.
        let _rung = (&*self.event).write(&1u64.to_ne_bytes());
    }

    /// Tells the worker to end, and wakes it.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the worker was told to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Takes note of having been woken.
    pub fn silence(&self) {
        // It fails when it has not rung.
        let _rung = (&*self.event).read(&mut [0; 8]);
    }
}

/// Waits for a worker's socket and bell.
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// A poller of these two, which must outlive it to be of use.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptor.
    pub fn new(socket: &Socket, bell: &Bell) -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let epoll = descriptor(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        for readable in [socket.as_fd(), bell.event.as_fd()] {
            let mut event = libc::epoll_event {
                events: READABLE,
                u64: 0,
            };
            // SAFETY: both descriptors are open, and `event` lives until the call returns.
            checked(unsafe {
                libc::epoll_ctl(
                    epoll.as_raw_fd(),
                    libc::EPOLL_CTL_ADD,
                    readable.as_raw_fd(),
                    &raw mut event,
                )
            })?;
        }
        Ok(Self { epoll })
    }

    /// Waits until one of them has something, for at most `timeout` rounded up to milliseconds.
    ///
    /// # Errors
    ///
    /// When waiting is not possible; then it never will be.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let millis = timeout.as_micros().div_ceil(1_000);
        let millis = libc::c_int::try_from(millis).unwrap_or(libc::c_int::MAX);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: `event` has room for the one event asked for, and lives until the call returns.
        let outcome =
            checked(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, millis) });
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` lives until the call returns and has this length.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    })?;
    Ok(())
}

/// The result of a system call, or its error.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn descriptor(result: libc::c_int) -> io::Result<OwnedFd> {
    let descriptor = checked(result)?;
    // SAFETY: the system call that returned it just opened it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Buffers of the socket, in bytes, as far as the system allows: 100 ms of 300 Mbit/s.
const SOCKET_BUFFER: libc::c_int = 4 << 20;
const COUNT: libc::c_uint = BATCH as libc::c_uint;
const INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
const INET6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;
const READABLE: u32 = libc::EPOLLIN as u32;
const NO_PART: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};
