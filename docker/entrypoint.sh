#!/bin/sh
# Prepare this container's device, then run the command it was given.
#
#   P2PAGENT_EXPERT        the shipped expert to host; asked for at the first start only
#   P2PAGENT_INVITE        file with the token of the network to join: waited for, and joined at every start
#   P2PAGENT_INVITE_WRITE  file to leave a token in, for others to join through this device
#   P2PAGENT_ADDRESS       multiaddress without /p2p, under which others reach this device; goes into that token.
#                          Left out: this container's own address, which all on its network can reach
#
# A token needs no running daemon: it is the network's name, this address and this device's peer id, which its key gives.
set -eu

say() {
    echo "entrypoint: $*" >&2
}

if [ -n "${P2PAGENT_EXPERT:-}" ] && [ ! -e "${P2PAGENT_HOME:?}/config.toml" ]; then
    p2pagent init --expert "$P2PAGENT_EXPERT" >/dev/null
fi
# Once more, for the peer id on its output: what is there already stays as it is.
peer=$(p2pagent init)
say "this device is $peer"

if [ -n "${P2PAGENT_INVITE_WRITE:-}" ]; then
    own_ip=$(hostname -i | cut -d ' ' -f 1)
    token=$(p2pagent invite --address "${P2PAGENT_ADDRESS:-/ip4/$own_ip/tcp/4101}/p2p/$peer")
    # Renamed into place, so that nobody reads half a token.
    printf '%s\n' "$token" >"$P2PAGENT_INVITE_WRITE.new"
    mv "$P2PAGENT_INVITE_WRITE.new" "$P2PAGENT_INVITE_WRITE"
    say "left an invite in $P2PAGENT_INVITE_WRITE"
fi

if [ -n "${P2PAGENT_INVITE:-}" ]; then
    waited_s=0
    until [ -s "$P2PAGENT_INVITE" ]; do
        if [ "$waited_s" -ge "${P2PAGENT_INVITE_WAIT_S:-120}" ]; then
            say "no invite in $P2PAGENT_INVITE after $waited_s s"
            exit 1
        fi
        sleep 1
        waited_s=$((waited_s + 1))
    done
    # Exit code 12: the settings are saved, but nobody answers yet. The daemon goes on trying.
    p2pagent join "$(cat "$P2PAGENT_INVITE")" || [ $? -eq 12 ]
fi

# In its place, not below it: signals reach the daemon itself.
exec "$@"
