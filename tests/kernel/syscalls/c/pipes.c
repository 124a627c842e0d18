/* Pipes, FIFOs and sockets between processes. */
#include "oracle.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

TEST(writing_to_a_closed_pipe_raises_sigpipe) {
    int fds[2];
    pipe(fds);
    close(fds[0]);
    CHILD(write(fds[1], "x", 1));
    signal(SIGPIPE, SIG_IGN);
    SHOW(write(fds[1], "x", 1));
    SHOW(write(fds[1], "", 0));
}

TEST(reading_an_empty_pipe) {
    int fds[2];
    char c;
    pipe2(fds, O_NONBLOCK);
    SHOW(read(fds[0], &c, 1));
    SHOW(read(fds[1], &c, 1));
    SHOW(write(fds[0], &c, 1));
    close(fds[1]);
    SHOW(read(fds[0], &c, 1));
    SHOW(lseek(fds[0], 0, SEEK_SET));
    SHOW(pread(fds[0], &c, 1, 0));
    SHOW(pipe2(fds, 12345));
}

TEST(pipes_of_packets) {
    int fds[2], available;
    static char data[10000], out[10000];
    SHOW(pipe2(fds, O_DIRECT | O_NONBLOCK));
    SHOW(fcntl(fds[0], F_GETFL));
    SHOW(fcntl(fds[1], F_GETFL));
    SHOW(write(fds[1], "abc", 3));
    SHOW(write(fds[1], "de", 2));
    SHOW(write(fds[1], "", 0));
    SHOW(write(fds[1], data, 5000));
    SHOW(ioctl(fds[0], FIONREAD, &available));
    printf("%d\n", available);
    SHOW(read(fds[0], out, 64));
    SHOW(read(fds[0], out, 1));
    SHOW(read(fds[0], out, 10));
    SHOW(read(fds[0], out, 9999));
    SHOW(read(fds[0], out, 1));
    SHOW(fcntl(fds[1], F_SETFL, O_NONBLOCK));
    SHOW(write(fds[1], "stream", 6));
    SHOW(fcntl(fds[1], F_SETFL, O_NONBLOCK | O_DIRECT));
    SHOW(fcntl(fds[1], F_GETFL));
    SHOW(write(fds[1], "packet", 6));
    SHOW(write(fds[1], "next", 4));
    SHOW(read(fds[0], out, 8));
    SHOW(read(fds[0], out, 8));
    for (int i = 0; i < 16; i++)
        write(fds[1], "x", 1);
    SHOW(write(fds[1], "x", 1));
    SHOW(read(fds[0], out, 100));
    SHOW(write(fds[1], "x", 1));
}

TEST(small_writes_are_atomic_and_large_ones_partial) {
    int fds[2], available;
    static char data[100000];
    pipe2(fds, O_NONBLOCK);
    SHOW(write(fds[1], data, 65000));
    SHOW(write(fds[1], data, 4096));
    SHOW(write(fds[1], data, 100000));
    SHOW(ioctl(fds[0], FIONREAD, &available));
    printf("%d\n", available);
    SHOW(read(fds[0], data, 100));
    SHOW(write(fds[1], data, 1));
    SHOW(read(fds[0], data, 4096));
    SHOW(write(fds[1], data, 1));
    SHOW(fcntl(fds[0], F_GETPIPE_SZ));
    SHOW(fcntl(fds[0], F_SETPIPE_SZ, 4096));
    SHOW(fcntl(fds[0], F_SETPIPE_SZ, 200000));
    SHOW(write(fds[1], data, 100000));
}

TEST(large_write_blocks_until_it_is_read) {
    int fds[2];
    static char data[300000];
    pipe(fds);
    pid_t child = fork();
    if (!child) {
        close(fds[0]);
        for (unsigned i = 0; i < sizeof data; i++)
            data[i] = i * 7;
        SHOW(write(fds[1], data, sizeof data));
        _exit(0);
    }
    close(fds[1]);
    unsigned sum = 0, total = 0;
    int n;
    while ((n = read(fds[0], data, 5000)) > 0) {
        for (int i = 0; i < n; i++)
            sum = sum * 31 + (unsigned char)data[i];
        total += n;
    }
    show_end(child);
    printf("%u %u\n", total, sum);
}

TEST(fifo_open_waits_for_its_partner) {
    char name[] = "/tmp/oracle-fifo-XXXXXX";
    close(mkstemp(name));
    unlink(name);
    SHOW(mkfifo(name, 0600));
    SHOW(open(name, O_WRONLY | O_NONBLOCK));
    pid_t child = fork();
    if (!child) {
        int fd = open(name, O_WRONLY);
        write(fd, "hello", 5);
        _exit(0);
    }
    char text[10] = "";
    int fd = open(name, O_RDONLY);
    SHOW(read(fd, text, 9));
    printf("%s\n", text);
    show_end(child);
    SHOW(read(fd, text, 9));
    unlink(name);
}

TEST(readv_and_writev) {
    int fds[2];
    char a[3] = "", b[6] = "";
    pipe(fds);
    struct iovec out[] = {{"ab", 2}, {"", 0}, {"cdef", 4}}, in[] = {{a, 2}, {b, 5}};
    SHOW(writev(fds[1], out, 3));
    SHOW(readv(fds[0], in, 2));
    printf("%s %s\n", a, b);
    SHOW(writev(fds[1], out, -1));
    SHOW(writev(fds[1], out, 1025));
    SHOW(writev(fds[1], out, 0));
    SHOW(readv(fds[0], (void *)8, 1));
}

TEST(positional_vector_calls) {
    char name[] = "/tmp/oracle-XXXXXX", a[3] = "", b[4] = "";
    int fd = mkstemp(name);
    unlink(name);
    struct iovec out[] = {{"ab", 2}, {"cde", 3}}, in[] = {{a, 2}, {b, 3}};
    SHOW(pwritev(fd, out, 2, 10));
    SHOW(preadv(fd, in, 2, 10));
    printf("%s %s\n", a, b);
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(pwritev2(fd, out, 2, -1, 0));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(pwritev2(fd, out, 2, 0, RWF_APPEND));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(preadv2(fd, in, 2, 0, RWF_HIPRI));
    SHOW(preadv2(fd, in, 2, 0, RWF_NOWAIT));
    SHOW(preadv2(fd, in, 2, 0, 0x4000));
    SHOW(pwritev2(fd, out, 2, 0, RWF_DSYNC));
    SHOW(preadv(fd, in, 2, -5));
}

TEST(tee_and_splice) {
    int a[2], b[2];
    char text[10] = "";
    pipe(a);
    pipe(b);
    write(a[1], "hello", 5);
    SHOW(tee(a[0], b[1], 5, 0));
    SHOW(read(b[0], text, 9));
    printf("%s\n", text);
    SHOW(splice(a[0], NULL, b[1], NULL, 3, 0));
    SHOW(read(b[0], text, 9));
    struct iovec part = {"vm", 2};
    SHOW(vmsplice(a[1], &part, 1, 0));
    memset(text, 0, 10);
    SHOW(read(a[0], text, 9));
    printf("%s\n", text);
    SHOW(splice(a[0], NULL, b[1], NULL, 3, SPLICE_F_NONBLOCK));
}

TEST(socketpair_stream_and_datagram) {
    int s[2];
    char text[10] = "";
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    SHOW(send(s[0], "hello", 5, 0));
    SHOW(recv(s[1], text, 2, MSG_PEEK));
    SHOW(recv(s[1], text, 2, 0));
    SHOW(recv(s[1], text, 9, MSG_DONTWAIT));
    printf("%s\n", text);
    SHOW(recv(s[1], text, 9, MSG_DONTWAIT));
    SHOW(shutdown(s[0], SHUT_WR));
    SHOW(recv(s[1], text, 9, 0));
    SHOW(close(s[1]));
    SHOW(send(s[0], "x", 1, MSG_NOSIGNAL));
    CHILD(write(s[0], "x", 1));
    SHOW(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    SHOW(send(s[0], "hello", 5, 0));
    SHOW(send(s[0], "yes", 3, 0));
    SHOW(recv(s[1], text, 2, 0));
    SHOW(recv(s[1], text, 9, 0));
    SHOW(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
    SHOW(send(s[0], "hello", 5, 0));
    SHOW(socketpair(AF_INET, SOCK_STREAM, 0, s));
}

TEST(descriptors_pass_through_sockets) {
    int s[2], fds[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    pid_t child = fork();
    if (!child) {
        pipe(fds);
        write(fds[1], "through", 7);
        char control[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec part = {"x", 1};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                           .msg_controllen = sizeof control};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fds[0], sizeof(int));
        SHOW(sendmsg(s[0], &m, 0));
        _exit(0);
    }
    show_end(child);
    char control[200], byte, text[10] = "";
    struct iovec part = {&byte, 1};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof control};
    SHOW(recvmsg(s[1], &m, MSG_CMSG_CLOEXEC));
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    printf("%d %d %d %zu\n", c->cmsg_level, c->cmsg_type, (int)c->cmsg_len, m.msg_controllen);
    int fd = *(int *)CMSG_DATA(c);
    printf("cloexec %d\n", fcntl(fd, F_GETFD));
    SHOW(read(fd, text, 9));
    printf("%s\n", text);
}

TEST(unix_sockets_connect_and_accept) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0oracle-abstract"};
    socklen_t length = sizeof(sa_family_t) + 16;
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(accept(listener, NULL, NULL));
    SHOW(bind(listener, (void *)&address, length));
    SHOW(listen(listener, 5));
    pid_t child = fork();
    if (!child) {
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        SHOW(connect(s, (void *)&address, length));
        write(s, "client", 6);
        _exit(0);
    }
    int s = accept(listener, NULL, NULL);
    char text[10] = "";
    SHOW(read(s, text, 9));
    printf("%s\n", text);
    show_end(child);
    SHOW(read(s, text, 9));
    address.sun_path[3] = 'z';
    SHOW(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, length));
    int on = 1;
    SHOW(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    struct timeval timeout = {0, 20000};
    SHOW(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
}

static void show_address(const char *what, struct sockaddr_un *address, socklen_t length) {
    printf("%s %d", what, (int)length);
    for (int i = 2; i < length && i < sizeof *address; i++)
        printf(" %02x", ((unsigned char *)address)[i]);
    puts("");
}

TEST(unix_socket_addresses) {
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "socket"}, from;
    char folder[] = "/tmp/behaviours-XXXXXX", c;
    chdir(mkdtemp(folder));
    for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++) {
        int server = socket(AF_UNIX, kind, 0), client = socket(AF_UNIX, kind, 0), end = server;
        socklen_t length;
        printf("kind %d\n", kind);
        for (int size = 0; size <= 2; size++)
            SHOW(connect(client, (void *)&at, size));
        SHOW(bind(server, (void *)&at, sizeof at + 1));
        SHOW(bind(server, (void *)&at, 129));
        SHOW(bind(server, (void *)8, 9));
        SHOW(bind(99, (void *)8, 9));
        SHOW(bind(1, (void *)8, 9));
        at.sun_family = AF_INET;
        SHOW(bind(server, (void *)&at, sizeof at));
        at.sun_family = AF_UNIX;
        SHOW(bind(server, (void *)&at, sizeof at));
        SHOW(bind(client, (void *)&at, sizeof at));
        length = sizeof from;
        SHOW(getsockname(server, (void *)&from, &length));
        show_address("server", &from, length);
        length = sizeof from;
        SHOW(getsockname(client, (void *)&from, &length));
        show_address("client", &from, length);
        SHOW(getpeername(client, (void *)&from, &length));
        SHOW(listen(server, 1));
        SHOW(connect(client, (void *)&at, sizeof at));
        if (kind == SOCK_STREAM) {
            length = sizeof from;
            SHOW(end = accept(server, (void *)&from, &length) > 0 ? 7 : -1);
            show_address("accepted", &from, length);
            dup2(end = server + 2, 7);
        }
        length = sizeof from;
        SHOW(getpeername(client, (void *)&from, &length));
        show_address("peer", &from, length);
        for (int named = 0; named < 2; named++) {
            SHOW(write(client, "xx", 2));
            length = sizeof from;
            SHOW(recvfrom(end, &c, 1, 0, (void *)&from, &length));
            show_address("recvfrom", &from, length);
            if (kind == SOCK_DGRAM)
                write(client, "xx", 2);
            struct iovec part = {&c, 1};
            struct msghdr m = {&from, sizeof from, &part, 1};
            SHOW(recvmsg(end, &m, 0));
            show_address("recvmsg", &from, m.msg_namelen);
            struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "client"};
            SHOW(bind(client, (void *)&name, sizeof name));
        }
        SHOW(unlink("socket") + unlink("client"));
    }
    SHOW(rmdir(folder));
}

TEST(recvmsg_flags_truncated_packets) {
    for (int kind = SOCK_STREAM; kind <= SOCK_SEQPACKET; kind++) {
        int s[2];
        if (kind != SOCK_STREAM && kind != SOCK_DGRAM && kind != SOCK_SEQPACKET)
            continue;
        printf("kind %d\n", kind);
        socketpair(AF_UNIX, kind, 0, s);
        char buffer[16];
        struct iovec part = {buffer, 4};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        for (int i = 0; i < 5; i++)
            write(s[0], "0123456789", 10);
        SHOW(recv(s[1], buffer, 4, 0));
        SHOW(recv(s[1], buffer, 4, MSG_TRUNC));
        SHOW(recv(s[1], buffer, 4, MSG_TRUNC | MSG_PEEK));
        SHOW(recv(s[1], NULL, 0, MSG_TRUNC | MSG_PEEK));
        SHOW(recvmsg(s[1], &message, 0));
        printf("flags %x\n", message.msg_flags);
        SHOW(recvmsg(s[1], &message, MSG_TRUNC | MSG_CMSG_CLOEXEC));
        printf("flags %x\n", message.msg_flags);
        part.iov_len = 16;
        SHOW(recvmsg(s[1], &message, MSG_TRUNC));
        printf("flags %x\n", message.msg_flags);
    }
}

TEST(recvmsg_flags_truncated_scm_rights) {
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    for (int room = 0; room <= 40; room += 4) {
        union { char bytes[64]; struct cmsghdr align; } control = {0};
        struct iovec part = {"x", 1};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                                 .msg_controllen = CMSG_SPACE(3 * sizeof(int))};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(3 * sizeof(int));
        int *fds = (int *)CMSG_DATA(header);
        fds[0] = fds[1] = fds[2] = 1;
        sendmsg(s[0], &message, 0);
        char c;
        part.iov_base = &c;
        message.msg_controllen = room;
        SHOW(recvmsg(s[1], &message, 0));
        printf("room %d used %zu flags %x\n", room, message.msg_controllen, message.msg_flags);
        if (message.msg_controllen) {
            printf("length %zu\n", header->cmsg_len);
            for (int i = 0; i < (header->cmsg_len - 16) / 4; i++)
                close(fds[i]);
        }
    }
}
