# Sourced by the other scripts: where things are, and how progress is said.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$repository/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
images=$target/images
tools=$target/tools

# The programs that tests and benches call, and the Debian packages they come in.
declare -A package_of=(
    [skopeo]=skopeo [buildah]=buildah [docker-registry]=docker-registry [mmdebstrap]=mmdebstrap
    [python3]=python3 [setpriv]=util-linux [unshare]=util-linux [mkfs.ext4]=e2fsprogs [git]=git
    [tar]=tar [dpkg-deb]=dpkg [newuidmap]=uidmap [setcap]=libcap2-bin
    [pip3]=python3-pip [runc]=runc [podman]=podman [umoci]=umoci [gcc]=gcc [strace]=strace [ssh-add]=openssh-client
    [script]=bsdutils [xz]=xz-utils [bzip2]=bzip2
)
test_programs=(skopeo buildah podman umoci docker-registry mmdebstrap python3 pip3 setpriv unshare git tar
    dpkg-deb setcap gcc ssh-add strace script xz bzip2)
bench_programs=(buildah podman runc docker-registry python3 unshare mkfs.ext4 gcc)

PATH=$PATH:/usr/sbin:/sbin
say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Programs unpacked beside the system's own (scripts/setup-tests as an ordinary user).
if [ -d "$tools/usr" ]; then
    PATH=$PATH:$tools/usr/bin:$tools/usr/sbin:$tools/bin:$tools/sbin
    triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
    export LD_LIBRARY_PATH="$tools/usr/lib/$triplet:$tools/lib/$triplet${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export PERL5LIB="$tools/usr/share/perl5${PERL5LIB:+:$PERL5LIB}"
fi

missing_programs() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

# Whether this user may map a range of ids: newuidmap is there, and both files name the user.
has_ranges() {
    command -v newuidmap >/dev/null &&
        grep -qsE "^($(id -un)|$(id -u)):" /etc/subuid && grep -qsE "^($(id -un)|$(id -u)):" /etc/subgid
}
