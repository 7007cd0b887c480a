#!/bin/sh
# Boots nothing: gives a guest's root its own namespaces, files and metadata service, and stays until it is killed. Runs
# in new namespaces (network, UTS, mount, PID), with the root (a folder, which stays as it is, or the file of a disk whose
# first partition it is), an empty folder, the folder with user-data and instance-id, whether the metadata service
# requires a session token, and the address.
set -e
root=$1 place=$2 told=$3 tokens=$4 address=$5

mount -t tmpfs guest "$place"
mkdir "$place/upper" "$place/work" "$place/root"
if [ -f "$root" ]; then
  disk=$(losetup --find --partscan --show "$root")
  # The kernel may know no partition tables. It drops disk and partition when the last mount ends, with this process.
  trap 'losetup --detach "$disk"' EXIT
  partx --add "$disk" 2>/dev/null || :
  mount "${disk}p1" "$place/root"
  losetup --detach "$disk"
  trap - EXIT
else
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$place/upper,workdir=$place/work" "$place/root"
fi
cd "$place/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs run run
mount --rbind /dev dev
if [ -n "${disk:-}" ]; then
  mkdir -p dev/block # udev's
  mount -t tmpfs block dev/block
  ln -s "$disk" dev/block/7:"${disk#/dev/loop}"
fi

ip link set lo up
ip link add eth0 type veth peer name outside
ip link set eth0 up
ip link set outside up
ip address add "$address/24" dev eth0
ip route add default via 10.0.0.1
ip address add 169.254.169.254/32 dev lo
hostname image
: > etc/resolv.conf

# Cloud-init knows EC2 by its DMI data.
cat > usr/sbin/dmidecode <<'EOF'
#!/bin/sh
case $2 in
  system-uuid|system-serial-number) echo ec2e1916-9099-7caf-fd21-012345abcdef ;;
  *) echo 'Amazon EC2' ;;
esac
EOF
chmod +x usr/sbin/dmidecode

cp -r "$told" srv/told
cp "$(dirname "$0")/metadata_service.py" srv/
chroot . python3 /srv/metadata_service.py /srv/told "$tokens" "$address" &
exec chroot . sleep infinity
