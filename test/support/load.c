// The load of load.ts at full strength: one thread, epoll, raw sockets. Same rules, same words, a report as JSON on
// stdout. Each request is ok or lost with a reason; nothing is retried. Requests are due by a schedule and latency
// counts from then. All that the kernel holds is read before anything is sent or judged, and the clock of the time-outs
// stands still while we do.
//
//   cc -O2 -o load test/support/load.c -lm
//   load PORT SECONDS NEW_PER_S KEEPALIVE RATE [CLOSED_LOOP] [--signal-every MS --signals N] [--timeout MS] [--settle
//   MS]
//
// PORT: of 127.0.0.1, or the path of a Unix socket. RATE: requests a second of each of the KEEPALIVE connections.
// --signal-every: SIGUSR2 to the process whose first reply came last, N times; windows are the 500 ms after each
// signal. Ends with 0 when nothing was lost, every signal brought a new process and none is left behind; else with 1.
// Linux.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { NEW, KEPT };
enum { REFUSED, RESET, END, TIMEOUT, BAD, REASONS, OK };
static const char* const kReasons[] = {"refused", "reset", "eof", "timeout", "bad reply"};

// FREE: no socket. ENDING: the whole reply is here and the EOF must follow. LINGER: the same, and nobody counts on it.
enum State { FREE, CONNECTING, BUSY, IDLE, ENDING, LINGER };

struct Keeper;
struct Wire {
  int fd, kind, length;
  enum State state;
  double due, deadline;
  struct Wire *before, *after;  // pending: in the order of deadlines
  struct Wire* next;            // the free ones
  struct Keeper* keeper;        // whose current connection this is
  bool loop;
  char bytes[2048];
};
struct Keeper {
  struct Wire* wire;
  int64_t sent, asked;  // how many of its requests were sent, and were due
  int number;
};
struct Samples {
  double (*at)[2];  // due, ms
  size_t count, room;
};
static struct Tally {
  int64_t sent, ok, lost, unsent, reasons[REASONS];
  struct Samples latency;
} tallies[2];
static struct Seen {
  int pid, pidfd;
  double first, gone;
  int64_t replies;
} seen[4096];
static struct Restart {
  double at, first_reply;
  int from, to;
} restarts[4096];

static int seen_count, restart_count, signals_failed;
static int64_t connections, announced, closed_idle, reset_idle, queued, untidy, stray, failed, stalls, missed;
static double longest_stall, alive, hold;  // `alive`: the clock of the time-outs, ms
static struct Samples late;
static struct Wire pending = {.before = &pending, .after = &pending};
static struct Wire *unused, *dropped;
static int epoll, loops_open;
static struct sockaddr_storage address;
static socklen_t address_length;
static char requests[2][256];
static volatile sig_atomic_t interrupted;

static double start, step_kept, timeout_ms = 5000;
static int kept_count;

static double Now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void Add(struct Samples* samples, double due, double ms) {
  if (samples->count == samples->room) {
    samples->room = samples->room ? samples->room * 2 : 4096;
    samples->at = realloc(samples->at, samples->room * sizeof *samples->at);
    if (!samples->at) exit(2);
  }
  samples->at[samples->count][0] = due;
  samples->at[samples->count++][1] = ms;
}

// 0: bytes are missing. -1: not a reply. Else the pid; *close is what the Connection header says. Every byte counts,
// none may follow.
static int ReadReply(const char* bytes, int length, bool* close) {
  static const char status[] = "HTTP/1.1 200 OK\r\n";
  const int shown = length < (int)sizeof status - 1 ? length : (int)sizeof status - 1;
  if (memcmp(bytes, status, shown) != 0) return -1;
  const char* end = memmem(bytes, length, "\r\n\r\n", 4);
  if (!end) return 0;
  int body = -1;
  *close = false;
  for (const char* line = bytes + sizeof status - 1; line < end + 2;) {
    const char* stop = memmem(line, end + 2 - line, "\r\n", 2);
    const char* colon = memchr(line, ':', stop - line);
    if (!colon || colon == line) return -1;
    if (strncasecmp(line, "Content-Length:", 15) == 0) {
      char* rest;
      body = (int)strtol(line + 15, &rest, 10);
      if (rest != stop || body < 2 || body > 11) return -1;
    }
    if (strncasecmp(line, "Transfer-Encoding:", 18) == 0) return -1;
    if (strncasecmp(line, "Connection:", 11) == 0) *close = stop - line >= 16 && strncasecmp(stop - 5, "close", 5) == 0;
    line = stop + 2;
  }
  if (body < 0) return -1;
  const char* text = end + 4;
  const int here = (int)(bytes + length - text);
  if (here > body) return -1;
  if (here < body) return 0;
  for (int i = 0; i < body - 1; i++)
    if (text[i] < '0' || text[i] > '9') return -1;
  if (text[body - 1] != '\n') return -1;
  const long pid = strtol(text, NULL, 10);
  return pid > 0 && pid <= INT32_MAX ? (int)pid : -1;
}

static void Saw(int pid) {
  const double now = Now();
  for (int i = seen_count - 1; i >= 0; i--)
    if (seen[i].pid == pid) {
      seen[i].replies++;
      return;
    }
  if (seen_count == (int)(sizeof seen / sizeof *seen)) return;
  // The pidfd names this very process from now on, whoever gets the number after it.
  seen[seen_count++] =
      (struct Seen){.pid = pid, .pidfd = (int)syscall(SYS_pidfd_open, pid, 0), .first = now, .gone = NAN, .replies = 1};
  struct Restart* last = restart_count ? &restarts[restart_count - 1] : NULL;
  if (last && last->to == 0) {
    last->to = pid;
    last->first_reply = now - last->at;
  }
}

static void Unlink(struct Wire* wire) {
  if (!wire->after) return;
  wire->before->after = wire->after;
  wire->after->before = wire->before;
  wire->before = wire->after = NULL;
}

// The socket goes; the wire is used again only after this round of events, which may still name it.
static void Drop(struct Wire* wire) {
  if (wire->state == FREE) return;
  if (wire->keeper && wire->keeper->wire == wire) wire->keeper->wire = NULL;
  if (wire->loop) loops_open--;
  close(wire->fd);
  wire->state = FREE;
  wire->next = dropped;
  dropped = wire;
}

// The request of this wire has its outcome. A wire that can go on is IDLE or LINGER by now; every other is dropped.
static void Settle(struct Wire* wire, int outcome) {
  struct Tally* tally = &tallies[wire->kind];
  Unlink(wire);
  if (outcome == OK) {
    tally->ok++;
  } else {
    tally->lost++;
    tally->reasons[outcome]++;
    hold = Now() + 1;
  }
  if (outcome != OK || (wire->state != IDLE && wire->state != LINGER)) Drop(wire);
}

static void Failed(struct Wire* wire) {  // by our own limits: no loss
  tallies[wire->kind].sent--;
  tallies[wire->kind].unsent++;
  failed++;
  Unlink(wire);
  Drop(wire);
  hold = Now() + 1;
}

static int ReasonOf(int error) {
  if (error == ECONNREFUSED || error == ENOENT || error == EAGAIN) return REFUSED;
  return error == ETIMEDOUT ? TIMEOUT : RESET;
}

static bool IsOwn(int error) {
  return error == EADDRNOTAVAIL || error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static void Ended(struct Wire* wire, int reason) {
  switch (wire->state) {
    case CONNECTING:
    case BUSY:
      Settle(wire, reason);
      break;
    case ENDING:
      untidy += reason != END;
      Settle(wire, OK);
      break;
    case IDLE:
      closed_idle++;
      reset_idle += reason != END;
      Drop(wire);
      break;
    default:
      Drop(wire);
  }
}

static void Write(struct Wire* wire) {
  const int length = (int)strlen(requests[wire->kind]);
  wire->state = BUSY;
  wire->length = 0;
  if (send(wire->fd, requests[wire->kind], length, MSG_NOSIGNAL) != length) Settle(wire, RESET);
}

static void Read(struct Wire* wire) {
  while (wire->state != FREE) {
    const ssize_t got = recv(wire->fd, wire->bytes + wire->length, sizeof wire->bytes - wire->length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      Ended(wire, got == 0 ? END : ReasonOf(errno));
      return;
    }
    if (wire->state != BUSY) {  // nobody asked
      if (wire->state == ENDING) {
        Settle(wire, BAD);
      } else {
        stray++;
        Drop(wire);
      }
      return;
    }
    wire->length += (int)got;
    bool close = false;
    const int pid = ReadReply(wire->bytes, wire->length, &close);
    if (pid == 0 && wire->length < (int)sizeof wire->bytes) continue;
    if (pid <= 0) {
      Settle(wire, BAD);
      return;
    }
    Add(&tallies[wire->kind].latency, wire->due, Now() - wire->due);
    Saw(pid);
    wire->length = 0;
    if (wire->kind == NEW) {
      wire->state = ENDING;
    } else if (close) {
      announced++;
      wire->state = LINGER;
      wire->keeper->wire = NULL;
      wire->keeper = NULL;
      shutdown(wire->fd, SHUT_WR);
      Settle(wire, OK);
    } else {
      wire->state = IDLE;
      Settle(wire, OK);
    }
  }
}

static struct Wire* Open(int kind) {
  struct Wire* wire = unused;
  if (wire)
    unused = wire->next;
  else if (!(wire = malloc(sizeof *wire)))
    exit(2);
  memset(wire, 0, offsetof(struct Wire, bytes));
  wire->kind = kind;
  wire->state = CONNECTING;
  wire->fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return wire;
}

static void Send(struct Wire* wire, double due) {
  const bool fresh = wire->state == CONNECTING;
  tallies[wire->kind].sent++;
  wire->due = due;
  wire->deadline = alive + timeout_ms;
  wire->before = pending.before;
  wire->after = &pending;
  pending.before->after = wire;
  pending.before = wire;
  if (!fresh) {
    Write(wire);
    return;
  }
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = wire};
  if (wire->fd < 0) {
    Failed(wire);
  } else if (connect(wire->fd, (struct sockaddr*)&address, address_length) != 0 && errno != EINPROGRESS) {
    if (IsOwn(errno))
      Failed(wire);
    else
      Settle(wire, ReasonOf(errno));
  } else if (epoll_ctl(epoll, EPOLL_CTL_ADD, wire->fd, &event) != 0) {
    Failed(wire);
  }
}

static void OnEvent(struct Wire* wire, uint32_t events) {
  if (wire->state == FREE) return;
  if (wire->state == CONNECTING) {
    int error = 0;
    getsockopt(wire->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
    if (error) {
      if (IsOwn(error))
        Failed(wire);
      else
        Settle(wire, ReasonOf(error));
      return;
    }
    if (!(events & EPOLLOUT)) return;
    Write(wire);
  }
  Read(wire);
}

static double DueOf(const struct Keeper* keeper, int64_t n) {
  return start + step_kept * (double)(n * kept_count + keeper->number + 1);
}

// What is due goes out, unless the one before is still on its way.
static void Serve(struct Keeper* keeper) {
  if (keeper->sent == keeper->asked) return;
  if (keeper->wire && keeper->wire->state != IDLE) return;
  if (!keeper->wire) {
    keeper->wire = Open(KEPT);
    keeper->wire->keeper = keeper;
    connections++;
  }
  Send(keeper->wire, DueOf(keeper, keeper->sent++));
}

static int Wait(struct epoll_event* events, int room, double ms) {
  const struct timespec limit = {.tv_sec = (time_t)(ms / 1e3), .tv_nsec = (long)(fmod(ms, 1e3) * 1e6)};
  const int count = (int)syscall(SYS_epoll_pwait2, epoll, events, room, &limit, NULL, 0L);
  return count < 0 && errno == ENOSYS ? epoll_wait(epoll, events, room, (int)ceil(ms)) : count;  // before Linux 5.11
}

// Waits for `ms` at most, then reads until a look of less than a millisecond has found nothing more: stopped and
// continued (a signal, a busy machine), we would else write to what has long ended.
static void Poll(double ms) {
  struct epoll_event events[512];
  for (int turn = 0; turn < 20; turn++) {
    const double began = Now(), wait = turn == 0 && ms > 0 ? ms : 0;
    const int count = Wait(events, 512, wait);
    for (int i = 0; i < count; i++) OnEvent(events[i].data.ptr, events[i].events);
    if (count >= 0 && count < 512 && Now() - began < wait + 1) break;
  }
  while (dropped) {
    struct Wire* wire = dropped;
    dropped = wire->next;
    wire->next = unused;
    unused = wire;
  }
}

static void Expire(void) {
  while (pending.after != &pending && pending.after->deadline <= alive) {
    struct Wire* wire = pending.after;
    if (wire->state == ENDING) {
      untidy++;
      Settle(wire, OK);
    } else {
      Settle(wire, TIMEOUT);
    }
  }
}

static void Signal(void) {
  if (seen_count == 0) return;
  struct Restart* restart = &restarts[restart_count++];
  *restart = (struct Restart){.at = Now(), .first_reply = NAN, .from = seen[seen_count - 1].pid};
  if (syscall(SYS_pidfd_send_signal, seen[seen_count - 1].pidfd, SIGUSR2, NULL, 0) != 0) signals_failed++;
}

// Notes the ends of processes. Returns how many run still, the newest left out.
static int Watch(void) {
  int running = 0;
  for (int i = 0; i < seen_count; i++) {
    if (!isnan(seen[i].gone)) continue;
    struct pollfd end = {.fd = seen[i].pidfd, .events = POLLIN};
    if (seen[i].pidfd < 0 || (poll(&end, 1, 0) == 1 && end.revents))
      seen[i].gone = Now();
    else if (i < seen_count - 1)
      running++;
  }
  return running;
}

static int Compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void Number(const char* name, double value, const char* after) {
  if (isnan(value))
    printf("\"%s\": null%s", name, after);
  else
    printf("\"%s\": %.3f%s", name, value, after);
}

static double PrintLatency(const char* name, const struct Samples* samples, bool windows) {
  double* values = malloc((samples->count + 1) * sizeof *values);
  size_t count = 0;
  for (size_t i = 0; i < samples->count; i++) {
    bool in = !windows;
    for (int r = 0; r < restart_count && !in; r++)
      in = samples->at[i][0] >= restarts[r].at && samples->at[i][0] < restarts[r].at + 500;
    if (in) values[count++] = samples->at[i][1];
  }
  qsort(values, count, sizeof *values, Compare);
#define PART(part) (count ? values[(size_t)fmax(0, ceil((part) * count) - 1)] : NAN)
  const double p99 = PART(0.99);
  printf("\"%s\": {\"count\": %zu, ", name, count);
  Number("p50", PART(0.5), ", ");
  Number("p99", p99, ", ");
  Number("p999", PART(0.999), ", ");
  Number("max", PART(1), "}");
  free(values);
  return p99;
}

static void PrintTally(const char* name, const struct Tally* tally) {
  const char* comma = "";
  printf("  \"%s\": {\"sent\": %ld, \"ok\": %ld, \"lost\": %ld, \"reasons\": {", name, tally->sent, tally->ok,
         tally->lost);
  for (int i = 0; i < REASONS; i++)
    if (tally->reasons[i]) printf("%s\"%s\": %ld", comma, kReasons[i], tally->reasons[i]), comma = ", ";
  printf("}, \"unsent\": %ld,\n    ", tally->unsent);
  if (tally == &tallies[NEW])
    printf("\"untidy\": %ld,\n    ", untidy);
  else
    printf("\"connections\": %ld, \"announced\": %ld, \"closedIdle\": %ld, \"resetIdle\": %ld, \"queued\": %ld,\n    ",
           connections, announced, closed_idle, reset_idle, queued);
  PrintLatency("latency", &tally->latency, false);
  printf(",\n    ");
  PrintLatency("windows", &tally->latency, true);
  printf("},\n");
}

// Returns whether all is well: nothing lost, every signal with an effect, nobody left behind.
static bool Report(double end) {
  int switched = 0, left = 0;
  printf("{\n  \"seconds\": %.3f,\n", (end - start) / 1e3);
  PrintTally("new", &tallies[NEW]);
  PrintTally("keepAlive", &tallies[KEPT]);
  printf("  \"stray\": %ld,\n  \"generator\": {", stray);
  const double p99 = PrintLatency("late", &late, false);
  printf(", \"stalls\": %ld, \"longestStall\": %.3f, \"failed\": %ld, \"behind\": %s},\n", stalls, longest_stall,
         failed, p99 > 50 || failed || missed ? "true" : "false");
  printf("  \"pids\": [");
  for (int i = 0; i < seen_count; i++) {
    printf("%s\n    {\"pid\": %d, \"replies\": %ld, ", i ? "," : "", seen[i].pid, seen[i].replies);
    Number("first", seen[i].first - start, ", ");
    Number("gone", seen[i].gone - start, "}");
  }
  printf("],\n  \"restarts\": [");
  for (int i = 0; i < restart_count; i++) {
    const struct Restart* restart = &restarts[i];
    double gone = NAN;
    for (int s = 0; s < seen_count; s++)
      if (seen[s].pid == restart->from) gone = seen[s].gone - restart->at;
    switched += restart->to != 0;
    printf("%s\n    {\"from\": %d, \"to\": %d, ", i ? "," : "", restart->from, restart->to);
    Number("at", restart->at - start, ", ");
    Number("firstReply", restart->first_reply, ", ");
    Number("oldGone", gone, "}");
  }
  printf("],\n  \"signals\": {\"sent\": %d, \"failed\": %d, \"switched\": %d},\n  \"leftBehind\": [", restart_count,
         signals_failed, switched);
  for (int i = 0; i < seen_count - 1; i++)
    if (isnan(seen[i].gone)) printf("%s%d", left++ ? ", " : "", seen[i].pid);
  printf("]\n}\n");
  return tallies[NEW].lost + tallies[KEPT].lost + stray + left == 0 && switched == restart_count;
}

static void OnInterrupt(int signal) {
  (void)signal;
  interrupted = 1;
}

static void SetAddress(const char* where) {
  struct sockaddr_un* path = (struct sockaddr_un*)&address;
  struct sockaddr_in* in = (struct sockaddr_in*)&address;
  if (where[0] == '/' || where[0] == '.') {
    path->sun_family = AF_UNIX;
    snprintf(path->sun_path, sizeof path->sun_path, "%s", where);
    address_length = sizeof *path;
    where = "localhost";
  } else {
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)atoi(where));
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address_length = sizeof *in;
  }
  snprintf(requests[NEW], sizeof requests[NEW], "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", where);
  snprintf(requests[KEPT], sizeof requests[KEPT], "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", where);
}

int main(int argc, char** argv) {
  const char* words[6] = {0};
  int count = 0, signals = 0;
  double every = 0, settle = 5000;
  for (int i = 1; i < argc; i++) {
    const char* value = i + 1 < argc ? argv[i + 1] : "0";
    if (strcmp(argv[i], "--signal-every") == 0)
      every = atof(value), i++;
    else if (strcmp(argv[i], "--signals") == 0)
      signals = atoi(value), i++;
    else if (strcmp(argv[i], "--timeout") == 0)
      timeout_ms = atof(value), i++;
    else if (strcmp(argv[i], "--settle") == 0)
      settle = atof(value), i++;
    else if (argv[i][0] != '-' && count < 6)
      words[count++] = argv[i];
    else
      count = 7;
  }
  if (count < 5 || count > 6 || signals > 4096) {
    fprintf(stderr,
            "usage: load PORT SECONDS NEW_PER_S KEEPALIVE RATE [CLOSED_LOOP]"
            " [--signal-every MS --signals N] [--timeout MS] [--settle MS]\n");
    return 2;
  }
  SetAddress(words[0]);
  const double rate_new = atof(words[2]), rate_kept = atof(words[4]);
  const int loops = count == 6 ? atoi(words[5]) : 0;
  kept_count = rate_kept > 0 ? atoi(words[3]) : 0;
  struct Keeper* keepers = calloc(kept_count + 1, sizeof *keepers);
  for (int i = 0; i < kept_count; i++) keepers[i].number = i;

  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  signal(SIGINT, OnInterrupt);
  signal(SIGTERM, OnInterrupt);
  epoll = epoll_create1(EPOLL_CLOEXEC);

  start = Now();
  step_kept = kept_count ? 1e3 / (rate_kept * kept_count) : INFINITY;
  const double step_new = rate_new > 0 ? 1e3 / rate_new : INFINITY;
  const double stop = start + atof(words[1]) * 1e3;
  int64_t next_new = 1, next_kept = 1;
  double last = start, end = 0, next_signal = signals ? start + every : INFINITY, next_watch = start;
  for (;;) {
    double now = Now();
    if (!end && (now >= stop || interrupted)) {  // 50 ms: what became due just now is no debt
      end = now;
      if (kept_count) missed += (int64_t)fmax(0, floor((end - 50 - start) / step_kept) - next_kept + 1);
      tallies[KEPT].unsent += missed;
      const int64_t missed_new =
          rate_new > 0 ? (int64_t)fmax(0, floor((end - 50 - start) / step_new) - next_new + 1) : 0;
      tallies[NEW].unsent += missed_new;
      missed += missed_new;
      for (int i = 0; i < kept_count; i++) tallies[KEPT].unsent += keepers[i].asked - keepers[i].sent;
    }
    if (end && pending.after == &pending) break;
    double next = fmin(fmin(start + next_new * step_new, start + next_kept * step_kept), fmin(next_signal, next_watch));
    if (end)
      next = INFINITY;
    else if (loops_open < loops)
      next = fmin(next, hold);
    Poll(fmin(next - now, 20));

    now = Now();
    if (now - last > 100) stalls++, longest_stall = fmax(longest_stall, now - last - 20);
    alive += fmin(now - last, 100);
    last = now;
    Expire();
    if (end) continue;

    // Sends what is due, then what waited behind another, for 1 ms; then the kernel's news come first again.
    const double began = now;
    while (now - began < 1) {
      const double due_new = start + next_new * step_new, due_kept = start + next_kept * step_kept;
      const double due = fmin(due_new, due_kept);
      if (due > now) break;
      Add(&late, due, now - due);
      if (due_new <= due_kept) {
        next_new++;
        Send(Open(NEW), due);
      } else {
        struct Keeper* keeper = &keepers[(next_kept++ - 1) % kept_count];
        keeper->asked++;
        if (keeper->wire && keeper->wire->state != IDLE)
          queued++;
        else
          Serve(keeper);
      }
      now = Now();
    }
    for (int i = 0; i < kept_count; i++) Serve(&keepers[i]);
    for (int i = loops_open; i < loops && now >= hold; i++) {
      struct Wire* wire = Open(NEW);
      wire->loop = true;
      loops_open++;
      Send(wire, Now());
    }
    if (now >= next_signal) {
      Signal();
      next_signal = restart_count < signals ? next_signal + every : INFINITY;
    }
    if (now >= next_watch) {
      Watch();
      next_watch = now + 5;
    }
  }
  // What would still drain waits for us alone.
  for (int i = 0; i < kept_count; i++)
    if (keepers[i].wire) Drop(keepers[i].wire);
  for (const double limit = Now() + settle; Watch() > 0 && Now() < limit && !interrupted;) usleep(5000);
  return Report(end) ? 0 : 1;
}
