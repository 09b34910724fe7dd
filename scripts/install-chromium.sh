#!/bin/sh
# install-chromium.sh  puts a browser at .tools/chromium/chromium, for the dashboard's test: $CHROMIUM or one of PATH if there is one, else Debian's
# chromium-headless-shell with the libraries that it lacks here, unpacked below .tools/chromium. Nothing is installed into the system, and root is not needed.
# CHROMIUM_FORCE=1 ignores what is there already.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/.tools/chromium/chromium

if [ -z "${CHROMIUM_FORCE:-}" ]; then
	for found in "${CHROMIUM:-}" chromium chromium-headless-shell chromium-browser google-chrome google-chrome-stable; do
		[ -n "$found" ] && path=$(command -v "$found") || continue
		mkdir -p "$(dirname "$target")"
		ln -sf "$path" "$target"
		echo "install-chromium: using $path"
		exit 0
	done
fi
if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-deb >/dev/null 2>&1; then
	echo "install-chromium: there is no chromium on PATH, and no apt-get to bring one; install Chromium or Chrome, or set CHROMIUM to its path" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# Lists and packages of our own, so that this works without root, and with whatever the machine's own lists are.
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/tree"
apt() {
	apt-get -qq -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o "Dir::Cache::archives=$work/archives" -o Debug::NoLocking=1 -o Acquire::Retries=3 \
		-o APT::Sandbox::User="$(id -un)" -o APT::Update::Error-Mode=any "$@"
}
apt update || {
	echo "install-chromium: could not read Debian's package lists; install chromium, or set CHROMIUM to its path" >&2
	exit 1
}
package=chromium-headless-shell
font=fonts-dejavu-core
apt install --simulate --no-install-recommends $package >/dev/null 2>&1 || package=chromium
names=$(apt install --simulate --no-install-recommends $package $font | awk '$1 == "Inst" { print $2 }')
[ -n "$names" ] || names=$package
(cd "$work/archives" && apt download $names) || {
	echo "install-chromium: could not download $package; install chromium, or set CHROMIUM to its path" >&2
	exit 1
}
for deb in "$work"/archives/*.deb; do
	dpkg-deb --extract "$deb" "$work/tree"
done
binary=$(find "$work/tree/usr/lib" -type f \( -name headless_shell -o -name chromium-headless-shell -o -name chromium \) -perm -u+x | head -n 1)
[ -n "$binary" ] || {
	echo "install-chromium: $package holds no browser where it is looked for" >&2
	exit 1
}
libraries=$(find "$work/tree" -type f -name 'lib*.so*' -exec dirname {} \; | sort -u | sed "s|^$work/tree|\$tree|" | paste -sd: -)
cat >"$work/chromium" <<WRAPPER
#!/bin/sh
# Runs the browser of $package with the libraries that came with it.
tree=\$(dirname "\$(readlink -f "\$0")")/tree
[ -d /etc/fonts ] || export FONTCONFIG_PATH="\$tree/etc/fonts"
export XDG_DATA_HOME="\$tree/usr/share" # where fonts are found that came with it
LD_LIBRARY_PATH=$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec "\$tree${binary#"$work/tree"}" "\$@"
WRAPPER
chmod 0755 "$work/chromium"
# A browser that does not start is worse than none: the test would blame the dashboard.
"$work/chromium" --headless --no-sandbox --disable-gpu --dump-dom 'data:text/html,<p>it works' 2>"$work/log" | grep -q 'it works' || {
	tail -n 20 "$work/log" >&2
	echo "install-chromium: the browser of $package does not start; install chromium, or set CHROMIUM to its path" >&2
	exit 1
}
rm -rf "$(dirname "$target")"
mkdir -p "$(dirname "$target")"
mv "$work/tree" "$(dirname "$target")/tree"
mv "$work/chromium" "$target"
echo "install-chromium: $target is $package $("$target" --version 2>/dev/null | awk '{ print $NF }')"
