//! Many descriptors as one entry of the store, each with bytes that describe it.
//!
//! They wait in the queue between two sockets, both of which are stored. As
//! entries of their own they would need a name each, and systemd passes all
//! names in one environment variable, which may have 128 KiB; it also compares
//! each new descriptor with all that it has.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Descriptors that the kernel takes with one message (`SCM_MAX_FD`).
const PER_MESSAGE: usize = 253;
/// Said by each message, beside its descriptors.
const BATCH: &[u8] = b"batch";

/// Something that is passed on: its description, and its descriptors.
pub type Item = (Vec<u8>, Vec<OwnedFd>);

/// A queue of items, held by its two ends.
#[derive(Debug)]
pub struct Parcel {
    /// Both ends, to be stored together.
    pub ends: [OwnedFd; 2],
}

impl Parcel {
    /// Packs items. Those that find no room are closed.
    pub fn pack(items: Vec<Item>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (to, from) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut batch = Batch::default();
        for item in items {
            if batch.fds.len() + item.1.len() >= PER_MESSAGE {
                std::mem::take(&mut batch).send(&to)?;
            }
            batch.push(item)?;
        }
        batch.send(&to)?;
        Ok(Self { ends: [to, from] })
    }
}

/// Takes the items out of the ends of parcels. What can't be read is closed.
pub fn unpack(ends: Vec<OwnedFd>) -> Vec<Item> {
    let mut items = Vec::new();
    for end in &ends {
        while let Some(batch) = receive(end) {
            items.extend(batch);
        }
    }
    items
}

/// Items of one message: the descriptions are in a file, for they may be long.
#[derive(Default)]
struct Batch {
    /// Before each description its length and the number of its descriptors.
    text: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Batch {
    fn push(&mut self, (text, fds): Item) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let length = u32::try_from(text.len()).map_err(too_long)?;
        let count = u8::try_from(fds.len()).map_err(too_long)?;
        self.text.extend(length.to_le_bytes());
        self.text.push(count);
        self.text.extend(text);
        self.fds.extend(fds);
        Ok(())
    }

    fn send(self, to: &OwnedFd) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let mut file = File::from(memfd_create(c"connections", MemfdFlags::CLOEXEC)?);
        file.write_all(&self.text)?;
        let mut fds: Vec<BorrowedFd<'_>> = vec![file.as_fd()];
        fds.extend(self.fds.iter().map(AsFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(
            to,
            &[IoSlice::new(BATCH)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}

/// The next message; none at the end of the queue.
fn receive(end: &OwnedFd) -> Option<Vec<Item>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut said = [0; BATCH.len()];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let iov = &mut [IoSliceMut::new(&mut said)];
    let bytes = recvmsg(end, iov, &mut control, flags).ok()?.bytes;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = fds.by_ref().flatten().collect();
    if bytes == 0 {
        return None;
    }
    Some(read(fds).unwrap_or_default())
}

fn read(fds: Vec<OwnedFd>) -> Option<Vec<Item>> {
    let mut fds = fds.into_iter();
    let mut file = File::from(fds.next()?);
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut text).ok()?;
    let (mut rest, mut items) = (text.as_slice(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk() {
        let (&count, after) = after.split_first()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, after) = after.split_at_checked(length)?;
        items.push((text.to_vec(), fds.by_ref().take(count.into()).collect()));
        rest = after;
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn text(number: usize) -> Vec<u8> {
        // Some are longer than any message may be.
        let length = if number == 3 { 1 << 20 } else { number };
        vec![number as u8; length]
    }

    #[test]
    fn thousands_of_connections_keep_their_order_and_their_descriptions() {
        let count = 1_000;
        let (mut ours, mut items) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (near, far) = UnixStream::pair().expect("a pair");
            ours.push(near);
            items.push((text(number), vec![far.into()]));
        }
        let parcel = Parcel::pack(items).expect("packed");
        let items = unpack(parcel.ends.into());
        assert_eq!(items.len(), count);
        for (number, ((found, fds), mut near)) in items.into_iter().zip(ours).enumerate() {
            assert_eq!(found, text(number));
            let [fd]: [OwnedFd; 1] = fds.try_into().expect("one");
            near.write_all(b"x").expect("written");
            let mut byte = [0];
            UnixStream::from(fd).read_exact(&mut byte).expect("read");
            assert_eq!(&byte, b"x");
        }
    }

    #[test]
    fn what_is_not_taken_out_is_closed_with_the_ends() {
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let parcel = Parcel::pack(vec![(Vec::new(), vec![far.into()])]).expect("packed");
        drop(parcel);
        assert_eq!(near.read(&mut [0]).expect("the end"), 0);
        let empty = Parcel::pack(Vec::new()).expect("packed");
        assert!(unpack(empty.ends.into()).is_empty());
    }
}
