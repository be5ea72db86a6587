// Verify checks a log published as static files (C2SP tlog-tiles) with the code of the Go checksum database, which
// shares nothing with ours. Usage: verify DIR, where DIR holds checkpoint, vkey and tile/. It prints a summary as JSON,
// and exits with 1 at the first fault.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height = 8
	width  = 1 << height
	every  = 7 // every 7th entry is proven: all places in a tile come by, full and partial
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
	origin, tree, err := dir.checkpoint()
	if err != nil {
		return nil, err
	}
	hashes, err := dir.rebuild(tree)
	if err != nil {
		return nil, err
	}
	found := &summary{Origin: origin, Size: tree.N, Root: tree.Hash.String()}
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

// checkpoint opens the note with the key in vkey and reads its text.
func (dir directory) checkpoint() (string, tlog.Tree, error) {
	var none tlog.Tree
	vkey, err := dir.read("vkey")
	if err != nil {
		return "", none, err
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		return "", none, err
	}
	data, err := dir.read("checkpoint")
	if err != nil {
		return "", none, err
	}
	opened, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return "", none, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return "", none, fmt.Errorf("not a checkpoint of %s", verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return "", none, fmt.Errorf("bad size %q", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return "", none, fmt.Errorf("bad root %q", lines[2])
	}
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return lines[0], tree, nil
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
