/* Tells a network interface to stamp all packets that it receives by its own clock, or none: `stamp_all IFNAME [none]`. The guest's ethtool cannot.
 *
 * Documentation/networking/timestamping.rst in Linux, SIOCSHWTSTAMP.
 */
#include <errno.h>
#include <linux/net_tstamp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct hwtstamp_config wanted = {.tx_type = HWTSTAMP_TX_OFF, .rx_filter = HWTSTAMP_FILTER_ALL};
    struct ifreq request;
    int socket_fd = socket(AF_INET, SOCK_DGRAM, 0);

    memset(&request, 0, sizeof(request));
    if (argc < 2 || strlen(argv[1]) >= sizeof(request.ifr_name)) {
        fprintf(stderr, "usage: stamp_all IFNAME [none]\n");
        return 2;
    }
    if (argc > 2)
        wanted.rx_filter = HWTSTAMP_FILTER_NONE;
    strcpy(request.ifr_name, argv[1]);
    request.ifr_data = (char *)&wanted;
    if (socket_fd < 0 || ioctl(socket_fd, SIOCSHWTSTAMP, &request) < 0) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    return 0;
}
