#!/usr/bin/env bash
# Checks every unit here with systemd's own tools; installs and starts nothing.
#   verify    unknown settings, wrong values, missing units. The programs need not be installed on the machine that
#             checks, so the units are verified as copies in which each program outside /bin is replaced by /bin/true.
#   security  exposure at most 2.5 of 10 for each service.
# Without systemd-analyze there is nothing to check with: an error in CI, a notice elsewhere.
set -euo pipefail
cd "$(dirname "$0")"

THRESHOLD=25 # systemd-analyze counts exposure in tenths: 25 is an exposure of 2.5

if ! command -v systemd-analyze > /dev/null; then
  echo "deploy/systemd: not checked, systemd-analyze is missing (Debian: apt-get install systemd)" >&2
  if [ "${CI:-}" = true ]; then exit 1; else exit 0; fi
fi

copies=$(mktemp --directory)
trap 'rm -rf "$copies"' EXIT
cp ./*.service ./*.target ./*.slice "$copies"
sed --in-place --regexp-extended 's#^(Exec[A-Za-z]+=[-@:+!]*)/(opt|usr/local)/[^ ]+#\1/bin/true#' "$copies"/*.service
# A template is verified as an instance of it.
for template in "$copies"/*@.service; do mv "$template" "${template%@.service}@example.service"; done

# The targets of systemd that ours name, empty: what is wrong with this machine's own units is not ours to report.
mkdir "$copies/stubs"
for target in basic multi-user network-online shutdown sysinit; do echo '[Unit]' > "$copies/stubs/$target.target"; done

failed=0
export SYSTEMD_UNIT_PATH="$copies:$copies/stubs"
if ! said=$(systemd-analyze verify --recursive-errors=yes --man=no "$copies"/mesh* 2>&1) || [ -n "$said" ]; then
  printf '%s\n' "$said" >&2
  failed=1
fi
for unit in "$copies"/mesh*.service; do
  if ! said=$(systemd-analyze security --no-pager --offline=true --threshold="$THRESHOLD" "$unit" 2>&1); then
    printf '%s\n' "$said" >&2
    failed=1
  fi
  grep --max-count=1 'Overall exposure' <<< "$said" || true
done
if [ "$failed" -ne 0 ]; then echo "deploy/systemd: check failed" >&2; fi
exit "$failed"
