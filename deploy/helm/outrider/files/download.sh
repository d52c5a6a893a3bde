# Fetches URL to FOLDER/FILE, where it has the checksum SHA256. What has another one is removed.
set -eu
cd "$FOLDER"

has_checksum() {
    [ "$(sha256sum < "$1" | cut -d ' ' -f 1)" = "$SHA256" ]
}

# The container may have been started again.
if [ -f "$FILE" ] && has_checksum "$FILE"; then
    echo "$FILE is there"
    exit 0
fi
rm -f "$FILE" "$FILE.part"
curl --fail --location --silent --show-error --retry 5 --retry-connrefused --output "$FILE.part" --url "$URL" ||
    { rm -f "$FILE.part"; exit 1; }
if ! has_checksum "$FILE.part"; then
    rm -f "$FILE.part"
    echo "$FILE does not have the checksum $SHA256" >&2
    exit 1
fi
mv "$FILE.part" "$FILE"
echo "$FILE is complete"
