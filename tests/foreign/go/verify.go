// Verify checks a log published as static files (C2SP tlog-tiles) with the code of the Go checksum database, which
// shares nothing with ours. Usage: verify DIR, where DIR holds checkpoint, vkey and tile/, and where cosignatures are to
// be checked, cosigners with one key a line. It prints a summary as JSON, and exits with 1 at the first fault.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height = 8
	width  = 1 << height
	every  = 7 // every 7th entry is proven: all places in a tile come by, full and partial

	cosignatureV1 = 0x04 // the type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature)
)

// directory reads tiles as files, and is a tlog.TileReader.
type directory string

// summary says what was checked.
type summary struct {
	Origin      string `json:"origin"`
	Size        int64  `json:"size"`
	Root        string `json:"root"`
	Tiles       int    `json:"tiles"`
	Inclusion   int    `json:"inclusion_proofs"`
	Consistency int    `json:"consistency_proofs"`
	// Cosigners says who has cosigned the checkpoint, and when, in seconds since 1970.
	Cosigners map[string]uint64 `json:"cosigners"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: verify DIR")
		os.Exit(2)
	}
	found, err := verify(directory(os.Args[1]))
	if err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		os.Exit(1)
	}
}

func verify(dir directory) (*summary, error) {
	origin, tree, cosigners, err := dir.checkpoint()
	if err != nil {
		return nil, err
	}
	hashes, err := dir.rebuild(tree)
	if err != nil {
		return nil, err
	}
	found := &summary{Origin: origin, Size: tree.N, Root: tree.Hash.String(), Cosigners: cosigners}
	if found.Tiles, err = dir.compareTiles(tree, hashes); err != nil {
		return nil, err
	}
	// From here on hashes come from the published tiles, which the reader checks against the root.
	tiles := tlog.TileHashReader(tree, dir)
	if found.Inclusion, err = proveEntries(tree, hashes, tiles); err != nil {
		return nil, err
	}
	if found.Consistency, err = proveGrowth(tree, hashes, tiles); err != nil {
		return nil, err
	}
	return found, nil
}

// checkpoint opens the note with the keys in vkey and cosigners, and reads its text. The log itself must have signed.
func (dir directory) checkpoint() (string, tlog.Tree, map[string]uint64, error) {
	var none tlog.Tree
	vkey, err := dir.read("vkey")
	if err != nil {
		return "", none, nil, err
	}
	log, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		return "", none, nil, err
	}
	verifiers, err := dir.cosigners()
	if err != nil {
		return "", none, nil, err
	}
	data, err := dir.read("checkpoint")
	if err != nil {
		return "", none, nil, err
	}
	opened, err := note.Open(data, note.VerifierList(append(verifiers, log)...))
	if err != nil {
		return "", none, nil, err
	}
	signed, times := false, map[string]uint64{}
	for _, sig := range opened.Sigs {
		if sig.Name == log.Name() && sig.Hash == log.KeyHash() {
			signed = true
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(sig.Base64)
		if err != nil {
			return "", none, nil, err
		}
		times[sig.Name] = binary.BigEndian.Uint64(raw[4:])
	}
	if !signed {
		return "", none, nil, fmt.Errorf("%s has not signed", log.Name())
	}
	tree, err := parse(opened.Text, log.Name())
	return log.Name(), tree, times, err
}

// parse reads the text of a checkpoint.
func parse(text, origin string) (tlog.Tree, error) {
	var none tlog.Tree
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != origin {
		return none, fmt.Errorf("not a checkpoint of %s", origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return none, fmt.Errorf("bad size %q", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return none, fmt.Errorf("bad root %q", lines[2])
	}
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return tree, nil
}

// cosigners reads the keys in the file of that name, in a sorted order; where there is no such file, none.
func (dir directory) cosigners() ([]note.Verifier, error) {
	data, err := dir.read("cosigners")
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys := strings.Fields(string(data))
	sort.Strings(keys)
	var found []note.Verifier
	for _, key := range keys {
		verifier, err := newCosigner(key)
		if err != nil {
			return nil, err
		}
		found = append(found, verifier)
	}
	return found, nil
}

// cosigner verifies timestamped cosignatures, which golang.org/x/mod does not know: it is a note.Verifier.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

// newCosigner reads <name>+<hash>+<base64 of type and key>.
func newCosigner(vkey string) (*cosigner, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("bad cosigner %q", vkey)
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != cosignatureV1 {
		return nil, fmt.Errorf("bad cosigner %q", vkey)
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	hash := binary.BigEndian.Uint32(sum[:])
	if fmt.Sprintf("%08x", hash) != parts[1] {
		return nil, fmt.Errorf("the hash of %q is %08x", vkey, hash)
	}
	return &cosigner{name: parts[0], hash: hash, key: key[1:]}, nil
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }

// Verify wants eight bytes of time, then a signature of that time and the text.
func (c *cosigner) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	head := fmt.Sprintf("cosignature/v1\ntime %d\n", binary.BigEndian.Uint64(sig))
	return ed25519.Verify(c.key, append([]byte(head), text...), sig[8:])
}

// stored holds all hashes of the tree in memory, and is a tlog.HashReader.
type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, 0, len(indexes))
	for _, index := range indexes {
		if index >= int64(len(s)) {
			return nil, fmt.Errorf("no hash %d", index)
		}
		found = append(found, s[index])
	}
	return found, nil
}

// rebuild hashes every entry of every bundle into a tree, which must have the root of the checkpoint.
func (dir directory) rebuild(tree tlog.Tree) (stored, error) {
	var hashes stored
	for n := int64(0); n < tree.N; {
		tile := tlog.Tile{H: height, L: -1, N: n / width, W: min(width, tree.N-n)}
		bundle, err := dir.read(path(tile))
		if err != nil {
			return nil, err
		}
		for i := 0; i < tile.W; i++ {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return nil, fmt.Errorf("%s is cut off", path(tile))
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			more, err := tlog.StoredHashes(n, bundle[2:end], hashes)
			if err != nil {
				return nil, err
			}
			hashes, bundle, n = append(hashes, more...), bundle[end:], n+1
		}
		if len(bundle) != 0 {
			return nil, fmt.Errorf("%s is too long", path(tile))
		}
	}
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return nil, err
	}
	if root != tree.Hash {
		return nil, fmt.Errorf("the entries hash to %s, the checkpoint says %s", root, tree.Hash)
	}
	return hashes, nil
}

// compareTiles compares every published tile of the tree with the hashes of the entries.
func (dir directory) compareTiles(tree tlog.Tree, hashes stored) (int, error) {
	count := 0
	for level := 0; tree.N>>(height*level) > 0; level++ {
		row := tree.N >> (height * level)
		for n := int64(0); n < row; n += width {
			tile := tlog.Tile{H: height, L: level, N: n / width, W: min(width, row-n)}
			want, err := tlog.ReadTileData(tile, hashes)
			if err != nil {
				return 0, err
			}
			got, err := dir.read(path(tile))
			if err != nil {
				return 0, err
			}
			if !bytes.Equal(got, want) {
				return 0, fmt.Errorf("%s does not hold the hashes of the entries", path(tile))
			}
			count++
		}
	}
	return count, nil
}

func proveEntries(tree tlog.Tree, hashes stored, tiles tlog.HashReader) (int, error) {
	count := 0
	for n := int64(0); n < tree.N; n += every {
		proof, err := tlog.ProveRecord(tree.N, n, tiles)
		if err != nil {
			return 0, err
		}
		leaf := hashes[tlog.StoredHashIndex(0, n)]
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaf); err != nil {
			return 0, err
		}
		count++
	}
	return count, nil
}

// proveGrowth proves that the tree grew from each power of two, and from the sizes beside it.
func proveGrowth(tree tlog.Tree, hashes stored, tiles tlog.HashReader) (int, error) {
	count := 0
	for power := int64(1); power <= tree.N; power *= 2 {
		for _, old := range []int64{power - 1, power, power + 1} {
			if old < 1 || old > tree.N {
				continue
			}
			root, err := tlog.TreeHash(old, hashes)
			if err != nil {
				return 0, err
			}
			proof, err := tlog.ProveTree(tree.N, old, tiles)
			if err != nil {
				return 0, err
			}
			if err := tlog.CheckTree(proof, tree.N, tree.Hash, old, root); err != nil {
				return 0, err
			}
			count++
		}
	}
	return count, nil
}

func (dir directory) Height() int { return height }

func (dir directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, 0, len(tiles))
	for _, tile := range tiles {
		data, err := dir.read(path(tile))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func (dir directory) SaveTiles([]tlog.Tile, [][]byte) {}

func (dir directory) read(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(dir), filepath.FromSlash(name)))
}

// path is the tile's name in C2SP tlog-tiles, which has no height and calls the entries by that name.
func path(tile tlog.Tile) string {
	name := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
	return strings.Replace(name, "tile/data/", "tile/entries/", 1)
}

func min(a int, b int64) int {
	if int64(a) < b {
		return a
	}
	return int(b)
}
