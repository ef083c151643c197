// A descriptor that tells of the hang-up of another one, for poll.cc: uv.h and platform.h cannot stand in one file, as
// the C library and the kernel each have a header of TCP.
#ifndef FDPASS_HANG_UP_H_
#define FDPASS_HANG_UP_H_

namespace fdpass {

// Makes a descriptor that is readable once `fd` has hung up or failed, and for no other reason. -1 and errno; ENOTSUP
// on macOS. It keeps nothing open: what `fd` named may be closed, and then it tells of nothing any more.
int HangUpDescriptor(int fd);

// Whether such a descriptor is readable.
bool HasHungUp(int waiter);

}  // namespace fdpass

#endif  // FDPASS_HANG_UP_H_
