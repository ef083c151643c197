#include "hang_up.h"

#include "platform.h"

namespace fdpass {

int HangUpDescriptor(int fd) { return platform::HangUpDescriptor(fd); }

bool HasHungUp(int waiter) { return platform::HasHungUp(waiter); }

}  // namespace fdpass
